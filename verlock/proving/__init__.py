"""A prefix in, a certificate out: smoke runs on this machine's GPUs, launched, watched and judged from outside.

Several machines make one run through `nodes`; a model of the user's own comes in through `own_model`.

What runs inside the environment is `verlock.smoke`. The modules `bench_*` do the same for the rollout benchmark, of which
`verlock.bench` runs inside: results a file per cell, and a table and plots of them.
"""

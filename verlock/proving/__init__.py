"""A prefix in, a certificate out: smoke runs on this machine's GPUs, launched, watched and judged from outside.

What runs inside the environment is `verlock.smoke`.
"""

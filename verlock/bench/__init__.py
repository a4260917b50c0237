"""The rollout benchmark, as it runs inside a variant's environment: a configuration in, a result file per cell out.

`shapes` and `jobs` are the data: which models, which work. `checkpoint` writes a model folder without weights, `engine`
drives vLLM, `runner` measures one launch (`python -m verlock.bench CONFIG`), `loop_costs` what a training loop pays beside
it, `hardware` what the card itself can do, `profile` where the time goes. `floor` says how fast a job could be at best.
Imports nothing of verlock but the parts of smoke that need only the standard library; `shapes`, `jobs`, `checkpoint` and
`floor` need no more themselves, so `verlock.proving` uses them from outside.
"""

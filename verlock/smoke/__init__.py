"""The smoke run, as it runs inside a variant's environment under torchrun: imports nothing else from verlock.

`model` makes a tiny Qwen2, `own_model` lets one of the user's own take its place, `trainer` trains it with FSDP, `rollout`
drives the colocated vLLM, `suite` measures the twelve gates whose bounds are in `gates`, `memory` counts, `sabotage` breaks one
thing on purpose, `grpo` runs three steps of verl itself with `hook` in its worker, `watchdog` turns a hang into stack traces.
`gates`, `kernels`, `sabotage`, `watchdog`, `overlay` and `report` need only the standard library: `verlock.proving` uses them
from outside.
"""

"""The smoke run, as it runs inside a variant's environment under torchrun: imports nothing else of verlock's.

`model` makes a tiny Qwen2, `trainer` trains it with FSDP, `rollout` drives the colocated vLLM, `suite` measures the twelve
gates whose bounds are in `gates`, `memory` counts, `sabotage` breaks one thing on purpose, `grpo` runs three steps of verl itself
with `hook` in its worker, `watchdog` turns a hang into stacks. `gates`, `kernels`, `sabotage`, `watchdog` and `overlay` need
the standard library alone: `verlock.proving` uses them from outside.
"""

"""Breaking one thing on purpose, to show that its gate sees it and the others do not. Standard library only.

Each mode breaks one thing in one place of `suite`, so that a gate which measures something else is not touched: that is
why every gate makes its own rollout on its own prompts, and does its own sync where it needs one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from verlock.smoke.gates import FAIL, Gate


@dataclass(frozen=True)
class Mode:
    """One way to break the run."""

    breaks: str
    gate: str


# `hang` is last: it ends the process, and `--sabotage all` goes through them in this order.
MODES: dict[str, Mode] = {
    "noisy-logprobs": Mode("gaussian noise of 0.1 nats on the logprobs of the first rollout", "3"),
    "skip-sync": Mode("the weights stay behind at the first sync after training", "4"),
    "stale-cache": Mode("the prefix cache is not reset at the second sync", "5"),
    "no-sleep": Mode("sleep and wake do nothing", "6"),
    "drop-sequence": Mode("one sequence of the n=4 rollout is lost", "7"),
    "nan-loss": Mode("the loss of the second optimizer step is NaN (the trainer skips such a step, as verl does)", "8"),
    "wrong-rank": Mode("at the third sync every rank gets its neighbour's half of each sharded weight", "10"),
    "hang": Mode("the last rank never arrives at the last barrier", "watchdog"),
}
ALL = "all"


def verdict(mode: str, gates: Iterable[Gate]) -> str:
    """Empty when exactly the gate that `mode` breaks is red, else one sentence that says what is red instead."""
    red = [gate.id for gate in gates if gate.verdict == FAIL]
    wanted = MODES[mode].gate
    if red == [wanted]:
        return ""
    return f"{mode} must turn gate {wanted} red and no other; red: {', '.join(red) or 'none'}"

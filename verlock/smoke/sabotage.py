"""Breaking one thing on purpose, to show that its gate sees it and the others do not. Standard library only.

Each mode breaks one thing in one place of `suite`, so that a gate which measures something else is not affected. This is why
every gate makes its own rollout on its own prompts, and its own sync if it needs one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every command's parser lists the modes; the gates' own imports would slow all of them down
    from verlock.smoke.gates import Gate


@dataclass(frozen=True)
class Mode:
    """One way to break the run.

    Attributes:
        breaks: what is broken.
        gate: the gate that must turn red, and no other.
        graphs: it can only break something when there are CUDA graphs.
        verl: it breaks verl's own steps, which are a separate launch.
    """

    breaks: str
    gate: str
    graphs: bool = False
    verl: bool = False


# `--sabotage all` goes through them in this order; `hang` ends the process.
MODES: dict[str, Mode] = {
    "other-version": Mode("the metadata of another version of a package comes first on sys.path", "1"),
    "layer-off": Mode("the trainer's first forward skips its last layer", "2"),
    "noisy-logprobs": Mode("gaussian noise of 0.1 nats on the logprobs of the first rollout", "3"),
    "skip-sync": Mode("the first sync after training is skipped", "4"),
    "stale-cache": Mode("the prefix cache is not reset at the second sync", "5"),
    "no-sleep": Mode("sleep and wake do nothing", "6"),
    "drop-sequence": Mode("one sequence of the n=4 rollout is lost", "7"),
    "nan-loss": Mode("the loss of the second optimizer step is NaN (the trainer skips such a step, as verl does)", "8"),
    "stale-graph": Mode("CUDA graphs replay the input they had before", "9", graphs=True),
    "wrong-rank": Mode("at the third sync every rank gets its neighbour's half of each sharded weight", "10"),
    "temperature": Mode("the engine samples at temperature 0.9", "11"),
    "top-p": Mode("the engine samples with top_p 0.95", "11"),
    "other-seed": Mode("the second of two rollouts with the same seed gets another seed", "12"),
    "hang": Mode("the last rank never arrives at the last barrier", "watchdog"),
    "verl-skip-sync": Mode("from verl's second step on its engine keeps the weights of the first", "verl", verl=True),
}
ALL = "all"


def passes(asked: str, mode: str) -> list[str]:
    """The passes that one process makes, without `hang`, which comes at the end of the process.

    Args:
        asked: what to break; `all` is an unbroken pass, then every sabotage of this engine mode.
        mode: eager or graphs.
    """
    if asked != ALL:
        return [asked]
    within = (name for name, each in MODES.items() if name != "hang" and not each.verl)
    return ["", *(name for name in within if mode == "graphs" or not MODES[name].graphs)]


@contextmanager
def other_version(package: str, folder: Path) -> Iterator[None]:
    """Inside, metadata in `folder` that says `package` is version 0 comes before the installed metadata."""
    site = folder / "other-version"
    metadata = site / f"{package.replace('-', '_')}-0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0\n", encoding="utf-8")
    sys.path.insert(0, str(site))
    try:
        yield
    finally:
        sys.path.remove(str(site))


def verdict(mode: str, gates: Iterable[Gate]) -> str:
    """Empty when exactly the gate that `mode` breaks is red, else one sentence that says what is red instead."""
    from verlock.smoke.gates import FAIL

    red = [gate.id for gate in gates if gate.verdict == FAIL]
    wanted = MODES[mode].gate
    if red == [wanted]:
        return ""
    return f"{mode} must turn gate {wanted} red and no other; red: {', '.join(red) or 'none'}"

"""What the smoke run adds to a verl whose engine is a server in another process (0.7 and later).

The engine's weights cannot be seen from here, so verl's own step carries the proof: what its worker sends, and how far each
rollout's logprobs are from the actor's. `grpo` appends calls of `install_sender` and `measured` to copies of verl's files. verl's
results are passed on unchanged. An error in here is written down and does not end verl's run.
"""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from verlock.smoke.gates import Agreement

COMPARED = "steps-0.jsonl"
SENT = "sent-{rank}.jsonl"


def measured(calculate: Callable[[Any], Any], folder: str) -> Callable[[Any], Any]:
    """verl's `calculate_debug_metrics`, which is given each step's batch, with our figures of that batch written down.

    Args:
        calculate: verl's function.
        folder: gets a line for every step.
    """
    path = Path(folder) / COMPARED

    @functools.wraps(calculate)
    def calculate_debug_metrics(data: Any) -> Any:
        step = len(_lines(path)) + 1
        try:
            line = {"step": step, "synced": asdict(Agreement.of(*_logprobs(data.batch)))}
        except Exception as error:
            traceback.print_exc()
            line = {"step": step, "error": f"{type(error).__name__}: {error}"}
        _write(path, line)
        return calculate(data)

    return calculate_debug_metrics


def _logprobs(batch: Any) -> tuple[list[float], list[float]]:
    """The actor's and the engine's logprobs of the responses' tokens, each as one flat list."""
    responses = batch["responses"]
    mask = (batch["response_mask"] if "response_mask" in batch else batch["attention_mask"])[:, -responses.shape[1] :]
    return tuple(batch[name][mask.bool()].float().tolist() for name in ("old_log_probs", "rollout_log_probs"))


def install_sender(adapters: dict[str, Any], folder: str, skip_sync: bool) -> None:
    """Watch what verl's worker sends to its engine.

    Args:
        adapters: the names of verl's module vllm_rollout; that of the sending class is among NAMES.
        folder: gets a line for every time that weights are sent, from each rank.
        skip_sync: send the weights of the first time again, each time.
    """
    kind = next(adapters[name] for name in NAMES if name in adapters)
    send = kind.update_weights

    @functools.wraps(send)
    async def update_weights(self: Any, weights: Iterable[tuple[str, Any]], *more: Any, **named: Any) -> Any:
        if not hasattr(self, "_verlock"):
            self._verlock = Sent(Path(folder), skip_sync)
        return await send(self, self._verlock.passing(weights), *more, **named)

    kind.update_weights = update_weights


# The class that sends a worker's weights: of verl 0.7, and of 0.7.1 to 0.9.
NAMES = ("vLLMAsyncRollout", "ServerAdapter")


class Sent:
    """What one worker has sent so far: the first weights and the latest, on the CPU."""

    def __init__(self, folder: Path, skip_sync: bool) -> None:
        import os

        self._path = folder / SENT.format(rank=os.environ.get("RANK", "0"))
        self._skip_sync = skip_sync
        self._first: dict[str, Any] = {}
        self._latest: dict[str, Any] = {}
        self._times = 0

    def passing(self, weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """The weights, as they are or, under sabotage, as they were the first time."""
        self._times += 1
        changed = total = 0
        for name, tensor in weights:
            here = tensor.detach().to("cpu", copy=True)
            if name in self._latest:
                changed += int((here != self._latest[name]).sum())
                total += here.numel()
            self._latest[name] = here
            first = self._first.setdefault(name, here)
            yield name, first.to(tensor.device) if self._skip_sync else tensor
        _write(self._path, {"sent": self._times, "changed": changed / total if total else None})


def read(folder: Path) -> list[dict[str, Any]]:
    """What was seen, a dictionary for every step; from the second on with `changed`, the share of weights that are new."""
    changed = {line["sent"]: line["changed"] for line in _lines(folder / SENT.format(rank=0))}
    return [
        {**line, **({"changed": changed[line["step"]]} if changed.get(line["step"]) is not None else {})}
        for line in _lines(folder / COMPARED)
    ]


def _write(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

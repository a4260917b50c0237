"""What the smoke run adds to verl's worker: each rollout's logprobs are compared with the actor's.

`grpo` appends a call of `install` to a copy of verl's fsdp_workers.py. verl's results are passed on unchanged. An
error in here is written down and does not end verl's run.
"""

from __future__ import annotations

import functools
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from verlock.smoke.gates import Agreement

# As in the source of verl 0.3.0.post1 and 0.4.0: the methods of ActorRolloutRefWorker, and where its vLLM engine keeps the model.
METHODS = ("generate_sequences", "compute_log_prob")


def install(worker: type, folder: str, skip_sync: bool) -> None:
    """Watch the rollouts of verl's worker class.

    Args:
        worker: verl's ActorRolloutRefWorker.
        folder: gets `steps-<rank>.jsonl`, a line for every step.
        skip_sync: break the sync from the second step on.
    """
    generate, compare = (getattr(worker, name) for name in METHODS)

    # wraps: it copies the attribute by which verl's dispatcher finds its methods
    @functools.wraps(generate)
    def generate_sequences(self: Any, *data: Any, **named: Any) -> Any:
        watch = _watch(self, folder)
        watch.guarded(lambda: watch.before_rollout(self, skip_sync))
        return generate(self, *data, **named)

    @functools.wraps(compare)
    def compute_log_prob(self: Any, data: Any) -> Any:
        found = compare(self, data)
        watch = _watch(self, folder)
        watch.guarded(lambda: watch.after_compare(data, found, lambda old: compare(self, old)))
        return found

    for name, replaced in zip(METHODS, (generate_sequences, compute_log_prob), strict=True):
        setattr(worker, name, replaced)


def _watch(worker: Any, folder: str) -> Watch:
    if not hasattr(worker, "_verlock"):
        worker._verlock = Watch(Path(folder) / f"steps-{worker.rank}.jsonl")
    watch: Watch = worker._verlock
    return watch


class Watch:
    """The steps that one worker has seen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step = 0
        self._began = 0.0
        self._drawn: dict[tuple[int, ...], list[float]] = {}
        self._before: tuple[Any, list[float], list[tuple[int, ...]]] | None = None

    def guarded(self, action: Callable[[], None]) -> None:
        """Run `action`; an error becomes a line of the file."""
        try:
            action()
        except Exception as error:
            traceback.print_exc()
            self._write({"step": self._step, "error": f"{type(error).__name__}: {error}"})

    def before_rollout(self, worker: Any, skip_sync: bool) -> None:
        """Listen to the engine; with `skip_sync`, let no new weights in from the second step on."""
        self._step += 1
        self._began = time.time()
        self._drawn = {}
        engine = worker.rollout.inference_engine
        if self._step == 1:
            engine.generate = self._listening(engine.generate)
        elif skip_sync:
            model = engine.llm_engine.model_executor.driver_worker.worker.model_runner.model
            model.load_weights = lambda weights, *more, **named: set()

    def _listening(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        def listening(*data: Any, **named: Any) -> Any:
            answers = generate(*data, **named)
            for answer in answers:
                for output in answer.outputs:
                    tokens = tuple(map(int, output.token_ids))
                    given = zip(tokens, output.logprobs, strict=True)
                    self._drawn[tokens] = [float(at[token].logprob) for token, at in given]
            return answers

        return listening

    def after_compare(self, data: Any, found: Any, again: Callable[[Any], Any]) -> None:
        """Write down how far this step's rollout is from the actor, and the last step's from the actor as it is now."""
        sequences = _sequences(data)
        missing = [tokens for tokens in sequences if tokens not in self._drawn]
        if missing:
            raise LookupError(f"{len(missing)} of {len(sequences)} responses are not among the engine's answers")
        theirs = [value for tokens in sequences for value in self._drawn[tokens]]
        synced = Agreement.of(_values(found, sequences), theirs)
        line: dict[str, Any] = {"step": self._step, "began": self._began, "synced": asdict(synced)}
        if self._before:
            old, said, spoken = self._before
            line["stale"] = asdict(Agreement.of(_values(again(old), spoken), said))
        self._before = (data, theirs, sequences)
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _sequences(data: Any) -> list[tuple[int, ...]]:
    """The responses of a verl batch, without padding."""
    responses = data.batch["responses"]
    lengths = data.batch["attention_mask"][:, -responses.shape[1] :].sum(dim=1).tolist()
    return [tuple(row[: int(length)]) for row, length in zip(responses.tolist(), lengths, strict=True)]


def _values(found: Any, sequences: list[tuple[int, ...]]) -> list[float]:
    """The actor's logprobs, one flat list in the order of the sequences."""
    rows = found.batch["old_log_probs"].tolist()
    return [value for row, tokens in zip(rows, sequences, strict=True) for value in row[: len(tokens)]]


def read(folder: Path) -> list[dict[str, Any]]:
    """What the first worker wrote, a dictionary for every step."""
    path = folder / "steps-0.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

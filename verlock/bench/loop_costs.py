"""What a training loop pays beside the rollout itself: new weights for the engine, and sleeping while the trainer works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from verlock.bench.engine import Engine
from verlock.bench.shapes import BYTES, Shape, size

if TYPE_CHECKING:
    import torch

TIMES = 3
BUCKET = 512 * 2**20  # bytes: what verl 0.5 and later send at once (rollout.update_weights_bucket_megabytes)
GIB = 2**30


def measure(engine: Engine, shape: Shape, device: str = "cuda") -> dict[str, Any]:
    """Seconds of each, several times; the engine has no weights afterwards.

    `whole`: all weights, on the GPU under their Hugging Face names, are given to vLLM in one call. `bucketed`: they are first
    copied into a buffer, as a broadcast leaves them, and given in parts of 512 MiB. `sleep_1`, `wake_1`: weights go to the CPU
    and back; the first time also takes the CPU's memory. `sleep_2`, `wake_2`: weights are dropped. `held_gib`: of the card, by
    all together, awake and asleep.
    """
    found: dict[str, Any] = {"weights_gib": shape.parameters * BYTES / GIB, "bucket_gib": BUCKET / GIB}
    found |= _sync(engine, shape, device)
    found["held_gib"] = {"awake": _held(device)}
    for level in (1, 2):
        slept, woken = [], []
        for _ in range(TIMES):
            slept.append(_timed(lambda level=level: engine.sleep(level), device))  # type: ignore[misc]
            held = _held(device)
            woken.append(_timed(engine.wake, device))
        found |= {f"sleep_{level}": slept, f"wake_{level}": woken}
        found["held_gib"][f"asleep_{level}"] = held
    return found


def _sync(engine: Engine, shape: Shape, device: str) -> dict[str, list[float]]:
    """The seconds of both ways; the trainer's weights are gone from the GPU when this returns."""
    weights = {name: _tensor(size(dims), device).view(dims) for name, dims in shape.weights()}
    whole = [_timed(lambda: engine.load(iter(weights.items())), device) for _ in range(TIMES)]
    buffer = _tensor(max(BUCKET // BYTES, *(size(dims) for _, dims in shape.weights())), device)
    bucketed = [_timed(lambda: _in_buckets(engine, weights, buffer), device) for _ in range(TIMES)]
    return {"whole": whole, "bucketed": bucketed}


def buckets(weights: dict[str, torch.Tensor], room: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The weights in order, in groups of at most `room` numbers; a weight that is larger is a group of its own."""
    group: list[tuple[str, torch.Tensor]] = []
    filled = 0
    for name, weight in weights.items():
        if group and filled + weight.numel() > room:
            yield group
            group, filled = [], 0
        group.append((name, weight))
        filled += weight.numel()
    if group:
        yield group


def _in_buckets(engine: Engine, weights: dict[str, torch.Tensor], buffer: torch.Tensor) -> None:
    for group in buckets(weights, BUCKET // BYTES):
        views, start = [], 0
        for name, weight in group:
            view = buffer[start : start + weight.numel()].view(weight.shape)
            view.copy_(weight)
            views.append((name, view))
            start += weight.numel()
        engine.load(iter(views))


def _tensor(count: int, device: str) -> torch.Tensor:
    import torch

    return torch.full((count,), 1e-3, dtype=torch.bfloat16, device=device)


def _timed(work: Callable[[], Any], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _held(device: str) -> float:
    """GiB in use on the card, by everyone."""
    if device != "cuda":
        return 0.0
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return float(total - free) / GIB

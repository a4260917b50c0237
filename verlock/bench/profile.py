"""Where the time of a rollout goes on the GPU: attention, matrices, sampling, the rest, and waiting for Python and launches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# The first pattern that a kernel's name has. Names were read in torch 2.5's and 2.11's libraries, and in vLLM's.
KINDS = (
    ("attention", re.compile(r"flash|fmha|paged_attention|attention|reshape_and_cache", re.IGNORECASE)),
    ("matrices", re.compile(r"gemm|gemv|cutlass|nvjet|cublas|xmma|splitK", re.IGNORECASE)),
    (
        "sampling",
        re.compile(r"softmax|sort|topk|argmax|multinomial|exponential|sampl|distribution|cumsum|scan", re.IGNORECASE),
    ),
    ("copies", re.compile(r"memcpy|memset", re.IGNORECASE)),
)
TOP = 15  # kernels named in the result


def kind(kernel: str) -> str:
    """Which of KINDS a kernel is, else `other kernels`."""
    return next((name for name, pattern in KINDS if pattern.search(kernel)), "other kernels")


def shares(kernels: Sequence[tuple[str, float, float]], wall: float) -> dict[str, float]:
    """Seconds by kind of (kernel, begin, end), in seconds; `waiting` is when no kernel ran, so that all add up to `wall`.

    Where kernels overlap, the time belongs to the one that began first.
    """
    found: dict[str, float] = {}
    until = float("-inf")
    for name, begin, end in sorted(kernels, key=lambda each: each[1]):
        alone = end - max(begin, until)
        if alone > 0:
            found[kind(name)] = found.get(kind(name), 0.0) + alone
        until = max(until, end)
    found["waiting"] = max(0.0, wall - sum(found.values()))
    return found


def longest(kernels: Iterable[tuple[str, float, float]]) -> list[tuple[str, float, int]]:
    """The kernels that took longest in all: name, seconds, how often."""
    total: dict[str, tuple[float, int]] = {}
    for name, begin, end in kernels:
        seconds, times = total.get(name, (0.0, 0))
        total[name] = (seconds + end - begin, times + 1)
    ranked = sorted(total.items(), key=lambda each: -each[1][0])[:TOP]
    return [(name[:200], seconds, times) for name, (seconds, times) in ranked]


def traced(work: Callable[[], float], device: str) -> dict[str, Any]:
    """Run `work`, which returns its seconds, once as it is and once traced. Only the device is traced, which costs little."""
    import torch
    from torch.profiler import ProfilerActivity

    plain = work()
    with torch.profiler.profile(activities=[getattr(ProfilerActivity, device.upper())]) as trace:
        wall = work()
    there = getattr(torch.autograd.DeviceType, device.upper())
    kernels = [
        (each.name, each.time_range.start / 1e6, each.time_range.end / 1e6)
        for each in trace.events()
        if each.device_type == there
    ]
    return {
        "seconds": plain,
        "traced_seconds": wall,
        "kernels": len(kernels),
        "shares": shares(kernels, wall),
        "longest": longest(kernels),
    }

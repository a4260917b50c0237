"""What the card itself can do, measured in the process that measures the engine: copy bandwidth, matrix throughput, clocks."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

COPIED = 2**31  # bytes of one copy: many times the 50 MB of an H100's second level cache
SIDE = 8192  # of the square matrices that are multiplied
TIMES = 20
# what nvidia-smi is asked for; the names are those of `nvidia-smi --help-query-gpu`
ASKED = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
# what holds the clocks down: the name it has since driver 535, and the older one
HELD = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")


def measured() -> dict[str, float]:
    """`copy_gb_s`, bytes read plus bytes written over seconds, in 1e9; `matmul_tflops` of bf16 matrices, in 1e12."""
    import torch

    copy, multiply = _copy(), _multiply()
    torch.cuda.empty_cache()
    return {"copy_gb_s": 2 * COPIED / copy / 1e9, "matmul_tflops": 2 * SIDE**3 / multiply / 1e12}


def _copy() -> float:
    import torch

    one = torch.zeros(COPIED, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(one)
    return best(lambda: other.copy_(one))


def _multiply() -> float:
    import torch

    # not zeros: a card draws less power, and clocks higher, where no bits change
    left, right = (torch.randn(SIDE, SIDE, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    out = torch.empty_like(left)
    return best(lambda: torch.matmul(left, right, out=out))


def best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of some runs of `work` on the GPU, after a few that do not count."""
    import torch

    for _ in range(3):
        work()
    found = []
    for _ in range(TIMES):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


def clocks(uuid: str) -> dict[str, str]:
    """Clocks, temperature, power and what holds the clocks down, as nvidia-smi says them now; empty where it does not answer."""
    if not shutil.which("nvidia-smi"):
        return {}
    return next((found for held in HELD if (found := _asked((*ASKED, held), uuid))), {}) or _asked(ASKED, uuid)


def _asked(fields: tuple[str, ...], uuid: str) -> dict[str, str]:
    """nvidia-smi's answer; it refuses the whole question where it does not know one of the fields."""
    command = [
        "nvidia-smi",
        f"--query-gpu={','.join(fields)}",
        "--format=csv,noheader",
        *([f"--id={uuid}"] if uuid else []),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    cells = [cell.strip() for cell in done.stdout.strip().partition("\n")[0].split(",")]
    return dict(zip(fields, cells, strict=True)) if not done.returncode and len(cells) == len(fields) else {}

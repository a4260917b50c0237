"""Results as the benchmark would leave them, by hand: for tests of tables and plots."""

from __future__ import annotations

import json

from verlock.bench import floor
from verlock.bench.jobs import JOBS
from verlock.bench.shapes import SHAPES

GPU = {"name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1a2b3c4d-0000", "memory_mib": 81559, "driver": "580.159.04"}
CARD = {"copy_gb_s": 2900.0, "matmul_tflops": 700.0}


def part(variant, mode, shape, job, seconds, number=1, **more):
    """One result file's content, with these seconds."""
    work = JOBS[job]
    least = floor.of(SHAPES[shape], work.lengths(0), work.n, 256, CARD)
    return {
        "schema": 1, "variant": variant, "mode": mode, "shape": shape, "job": job, "round": number,
        "digest": "d" * 64, "python": "3.10", "gpu": GPU, "receipt": {}, "date": f"2026-11-26T0{number}:00:00+00:00",
        "engine": "V1" if variant == "v1" else "V0", "hardware": CARD, "engine_seconds": 40.0, "capture_seconds": 9.0,
        "iterations": [{"seconds": each, "tokens": work.tokens(0)} for each in seconds],
        "floor": [{**least.__dict__, "seconds": least.seconds} for _ in seconds],
        "complete": True, **more,
    }  # fmt: skip


def write(card, *parts):
    """Write result files into a card's folder."""
    card.mkdir(parents=True, exist_ok=True)
    for each in parts:
        name = "-".join(str(each[key]) for key in ("variant", "mode", "shape", "job", "round"))
        (card / f"{name}.json").write_text(json.dumps(each))

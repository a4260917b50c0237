"""One rank of a smoke run: `torchrun -m verlock.smoke CONFIG`, where CONFIG is JSON written by verlock.proving.smoke_launch."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from verlock.smoke import facts, gates, lifetime, sabotage
from verlock.smoke.report import Report
from verlock.smoke.suite import Phase, Setting, Sizes, Suite
from verlock.smoke.watchdog import LIMITS, Heartbeat
from verlock.smoke.world import Ranks, take_place


def main(config: dict[str, Any]) -> NoReturn:
    """Run all passes the configuration asks for, and end this process; the report is in its folder."""
    folder = Path(config["folder"])
    limits = {**LIMITS, **config.get("limits", {})}
    take_place(config["gpus"])
    rank = int(os.environ["RANK"])
    lifetime.run(folder, rank, limits, lambda heart, phase: _run(config, folder, heart, phase))


def _run(config: dict[str, Any], folder: Path, heart: Heartbeat, phase: Phase) -> None:
    report = Report(folder, writes=int(os.environ["RANK"]) == 0)
    suite = _made(config, phase, report)
    asked = config["sabotage"]
    for number, mode in enumerate(sabotage.passes(asked, config["mode"])):
        if number:
            with phase("gate restart"):
                suite.restart()
        report.begin(mode)
        package = next(iter(config["expected"]["versions"]))
        with sabotage.other_version(package, folder) if mode == "other-version" else nullcontext(), phase("gate 1"):
            report.add(_environment(config, suite, report))
        for gate in suite.run(mode):
            report.add(gate)
        if not number:
            report.data |= {"fingerprint": suite.fingerprint, "samples": suite.samples}
    report.data["phases"] = [[name, seconds, limit] for name, seconds, limit in heart.phases]
    report.write()
    if asked == sabotage.ALL:
        report.begin("hang", [gates.Gate.from_dict(gate) for gate in report.data["passes"][0]["gates"]])
    with phase("last barrier"):
        while asked in ("hang", sabotage.ALL) and suite.world.rank == suite.world.size - 1:
            time.sleep(1.0)
        suite.world.barrier()


def _made(config: dict[str, Any], phase: Phase, report: Report) -> Suite:
    """Trainer and engine of this rank, ready to be measured."""
    with phase("imports"):
        import torch  # noqa: F401
        import transformers

        from verlock.smoke import memory, model, own_model, rollout
        from verlock.smoke.trainer import Trainer

        transformers.logging.set_verbosity_error()
        module, name = config.get("engine", "verlock.smoke.rollout:Vllm").split(":")
        make_engine = getattr(importlib.import_module(module), name)
        checkpoint, own, scratch = Path(config["model"]), bool(config.get("own")), Path(config["folder"]) / "tokenizer"
        if own:
            own_model.admit(checkpoint, make_engine.architectures())
    with phase("trainer"):
        world = Ranks(config["device"], config["tp"], config["gpus"], config.get("nodes", 1))
        if world.first:
            own_model.ensure_tokenizer(checkpoint, scratch) if own else model.ensure(checkpoint)
        world.barrier()
        trainer = Trainer(checkpoint, world.device)
        on_gpu = config["device"] == "cuda"
        per_process = all(world.gather(on_gpu and memory.listed()))
        world.barrier()
        baseline = memory.used(per_process) if on_gpu else 0.0
        world.barrier()  # no rank starts its engine while another one still measures memory
    with phase("engine"):
        start = time.monotonic()
        engine = make_engine(
            **rollout.arguments(
                checkpoint,
                tp=config["tp"],
                mode=config["mode"],
                sleep_mode=config["sleep_mode"],
                extra={**(own_model.arguments(checkpoint, scratch) if own else {}), **config["llm"]},
            )
        )
        report.data["engine_seconds"] = time.monotonic() - start
    setting = Setting(config["mode"], baseline, per_process, Sizes(**config.get("sizes", {})), own)
    return Suite(engine, trainer, world, setting, phase)


def _environment(config: dict[str, Any], suite: Suite, report: Report) -> gates.Gate:
    """Gate 1; what the first pass found goes into the report. Each node has an environment of its own, and one red one counts."""
    start = time.monotonic()
    known = facts.gather(suite.engine.kind, config["driver"], config.get("imports") or facts.modules())
    report.data.setdefault("facts", known)
    gate = gates.environment(known, config["expected"])
    if suite.world.nodes > 1:
        gate = gates.of_nodes(suite.world.gather(gate), suite.world.nodes)
    return replace(gate, seconds=time.monotonic() - start)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

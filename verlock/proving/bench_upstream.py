"""The yardstick: vLLM's own throughput benchmark, out of the wheel, or else out of vLLM's repository at that commit.

Its code is not copied into this repository. The places asked for the commit are those of every source (VERLOCK_SOURCE_MIRROR).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from verlock.bench import checkpoint, engine
from verlock.errors import SourceUnavailable
from verlock.proving.bench_plan import Cell
from verlock.sources import git_commit
from verlock.variant.chosen import Chosen
from verlock.variant.recipe import Source

SCRIPT = "benchmarks/benchmark_throughput.py"
IN_WHEEL = "vllm/benchmarks/throughput.py"
# Releases of the index whose wheel has no benchmark: the commit of the release's tag, and its tree.
RELEASES = {"0.7.3": ("ed6e9075d31e32c8548b480a47d1ffb77da1f54c", "ad80b46f42a4226c6f71a6fbb78d2e44cb22a511")}
URL = "https://github.com/vllm-project/vllm.git"
# `vllm bench` warms nothing up either, unless told to; LLM's own arguments that its command line does not have, or no longer
NO_OPTION = ("model", "tokenizer", "swap_space")


def command(chosen: Chosen, cell: Cell, model: Path, folder: Path, output: Path) -> list[str]:
    """What to run for one cell.

    Args:
        chosen: whose vLLM.
        cell: mode and work.
        model: the folder that `checkpoint.write` wrote.
        folder: gets vLLM's source where the script comes from there.
        output: gets the script's own JSON.

    Raises:
        SourceUnavailable and what `git_commit.checkout` raises: there is no script.
    """
    given = engine.arguments(model, cell.mode, chosen.recipe.vllm.llm)
    job = cell.job
    work = ["--num-prompts", str(job.prompts), "--n", str(job.n), "--output-json", str(output)]
    work += ["--model", str(model), "--tokenizer", str(checkpoint.tokenizer(model)), *options(given)]
    if (chosen.site / IN_WHEEL).exists():
        lengths = [
            "--random-input-len",
            str(job.prompt),
            "--random-output-len",
            str(job.new),
            "--random-range-ratio",
            "0",
        ]
        program = ["-m", "vllm.entrypoints.cli.main", "bench", "throughput", "--dataset-name", "random"]
        return [str(chosen.interpreter), *program, *lengths, *work]
    source = folder / "vllm-source"
    if not source.exists():
        git_commit.checkout(_source(chosen), source)
    lengths = ["--input-len", str(job.prompt), "--output-len", str(job.new)]
    return [str(chosen.interpreter), str(source / SCRIPT), *lengths, *work]


def options(given: dict[str, Any]) -> list[str]:
    """Arguments of vllm.LLM as options of its command lines; what is false is off there, too."""
    found: list[str] = []
    for name, value in given.items():
        if name in NO_OPTION or value is False:
            continue
        found.append(f"--{name.replace('_', '-')}")
        if value is not True:
            found.append(json.dumps(value) if isinstance(value, (dict, list)) else str(value))
    return found


def seconds(output: Path) -> float:
    """What the script measured. Raises OSError, ValueError or KeyError where it left nothing."""
    return float(json.loads(output.read_text(encoding="utf-8"))["elapsed_time"])


def _source(chosen: Chosen) -> Source:
    recipe = chosen.recipe
    if recipe.source and recipe.source.package == "vllm":
        return recipe.source
    if recipe.vllm.version not in RELEASES:
        raise SourceUnavailable(
            f"vLLM {recipe.vllm.version} has no benchmark in its wheel, and its commit is not known here",
            "add it to RELEASES in verlock/proving/bench_upstream.py, or leave out `upstream` with --job",
        )
    commit, tree = RELEASES[recipe.vllm.version]
    return Source.model_construct(package="vllm", version=recipe.vllm.version, url=URL, commit=commit, tree=tree)

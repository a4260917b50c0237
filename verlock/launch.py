"""One launch of verlock/smoke inside a built environment: what it is told, how it is watched, and what its gates said."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import console, lock, project
from verlock.errors import GateFailed, SmokeCrashed, VerlockError
from verlock.smoke import gates, overlay, report, sabotage, watchdog
from verlock.smoke.gates import Gate

if TYPE_CHECKING:
    from verlock.recipe import Recipe

# What the versions in gate 1 are checked for: the packages whose mismatch has broken such environments.
CHECKED = ("vllm", "verl", "torch", "transformers", "ray", "tensordict", "numpy", "triton", "xformers")
# A user's own settings for vLLM, Ray and torch would prove another environment than the locked one.
DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PYTORCH_CUDA_ALLOC_CONF")
HANG_LIMIT = 10.0  # seconds the sabotage `hang` is waited for
TAIL = 25  # lines of the log shown when a run crashed


@dataclass(frozen=True)
class Machine:
    """The GPUs of this machine that a run may use."""

    name: str
    count: int
    memory_mib: int
    driver: str


@dataclass(frozen=True)
class Part:
    """One launch of a smoke run: in which mode (eager, graphs, or verl for verl's own steps), and how the ranks are laid out."""

    mode: str
    ranks: int = 1
    tp: int = 1

    @property
    def name(self) -> str:
        """The part's name in paths."""
        return f"{self.mode}-ranks{self.ranks}-tp{self.tp}"


@dataclass
class Pass:
    """One pass through the gates: what was broken on purpose, and what every gate said."""

    mode: str
    tp: int
    sabotage: str
    gates: list[Gate]
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The pass's name in the report."""
        ranks = self.details.get("ranks", 1)
        layout = f", {gates.layout(ranks, self.details['gpus'])}, TP={self.tp}" if ranks > 1 else ""
        again = " again" if "again" in self.details else ""
        return f"{self.mode}{again}{layout}{f' --sabotage {self.sabotage}' if self.sabotage else ''}"

    @property
    def timing(self) -> str:
        """How long it took, and what of that was the engine's start and the gates."""
        measured = sum(gate.seconds for gate in self.gates)
        engine = f"engine {self.details['engine_seconds']:.0f} s, " if "engine_seconds" in self.details else ""
        return f"{self.seconds:.0f} s ({engine}gates {measured:.0f} s)"

    @property
    def red(self) -> list[Gate]:
        """The gates that failed."""
        return [gate for gate in self.gates if gate.verdict == gates.FAIL]

    def problem(self) -> str:
        """Empty when the pass is as it should be: all green, or under sabotage red in exactly the gate that is meant."""
        if self.sabotage:
            return sabotage.verdict(self.sabotage, self.gates)
        return (
            f"{self.label}: " + "; ".join(f"gate {gate.id}: {gate.sentence}" for gate in self.red) if self.red else ""
        )

    def as_dict(self) -> dict[str, Any]:
        """The pass as JSON holds it."""
        return {
            "mode": self.mode,
            "tp": self.tp,
            "sabotage": self.sabotage,
            "problem": self.problem(),
            "seconds": round(self.seconds, 1),
            "gates_seconds": round(sum(gate.seconds for gate in self.gates), 1),
            "gates": [gate.as_dict() for gate in self.gates],
            **self.details,
        }


# what the inside is told -----------------------------------------------------------------------------


def surroundings(recipe: Recipe, prefix: Path) -> dict[str, str]:
    """The environment variables inside `prefix`: the recipe's, offline, without the user's own settings for vLLM and torch."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in DROPPED and not name.startswith(("VLLM_", "RAY_"))
    }
    return {
        # Everything is on this host: names, firewalls and other interfaces must not matter. Data still goes over NVLink.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        **kept,
        "PATH": os.pathsep.join([str(prefix / "bin"), kept.get("PATH", os.defpath)]),
        "PYTHONPATH": str(project.ROOT),
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "WANDB_MODE": "disabled",
        "HYDRA_FULL_ERROR": "1",
        **recipe.vllm.environment,
    }


def caches(folder: Path) -> dict[str, str]:
    """The environment variables that keep what is compiled in `folder`, which the launches of one run share."""
    return {
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


def configuration(recipe: Recipe, python: str, machine: Machine, part: Part, folder: Path) -> dict[str, Any]:
    """What `python -m verlock.smoke` reads: see verlock/smoke/__main__.py.

    Args:
        recipe, python: which variant.
        machine: the GPUs.
        part: which launch.
        folder: the run's; the launch gets a folder of its own in it, and the model is written once for all.
    """
    pinned = {pin.name: pin.version for pin in lock.pins(recipe.lock_dir(python) / "requirements.txt")}
    pinned["vllm"] = recipe.vllm.version  # a variant built from source has no pin
    abis = {"TRUE" in each.url.partition("cxx11abi")[2][:4] for each in recipe.artefact if "cxx11abi" in each.url}
    return {
        "folder": str(folder / part.name),
        "model": str(folder / "model"),
        "mode": part.mode,
        "ranks": part.ranks,
        "tp": part.tp,
        "gpus": min(part.ranks, machine.count),
        "sabotage": "",
        "device": "cuda",
        "driver": machine.driver,
        "llm": recipe.vllm.llm,
        "sleep_mode": recipe.vllm.sleep_mode,
        "expected": {
            "versions": {name: pinned[name] for name in CHECKED if name in pinned},
            "engine": recipe.vllm.engine,
            "cuda": recipe.cuda.version,
            "min_driver": recipe.cuda.min_driver,
            "cxx11abi": abis.pop() if len(abis) == 1 else None,
        },
    }


def sabotaged(config: dict[str, Any], mode: str) -> dict[str, Any]:
    """The same configuration with something broken on purpose."""
    limits = {"last": HANG_LIMIT} if mode in ("hang", sabotage.ALL) else {}
    return {**config, "sabotage": mode, "limits": limits}


def take_back(recipe: Recipe, python: str, prefix: Path, folder: Path) -> Path:
    """An overlay of the patched packages with their original files, for PYTHONPATH; the prefix stays as it is."""
    from verlock import patches
    from verlock.diffs import Stage

    site = project.site_packages(prefix, python)
    files = patches.read(recipe)
    if not files:
        raise VerlockError(f"{recipe.name} has no patches to take back", "leave --unpatched away")
    paths = sorted({path for file in files for path in file.paths})
    scratch, into = folder / "unpatched-files", folder / "unpatched"
    stage = Stage(site, paths, scratch)
    for file in reversed(files):
        if problem := stage.run(file.data, "--reverse"):
            raise GateFailed(
                f"{file.patch.file} cannot be taken back: {problem}", f"is it applied? `verlock patches {recipe.name}`"
            )
    for package in sorted({path.split("/")[0] for path in paths}):
        inside = [path for path in paths if path.startswith(f"{package}/")]
        texts = {path.removeprefix(f"{package}/"): (scratch / path).read_text(encoding="utf-8") for path in inside}
        overlay.make(site / package, texts, into)
    return into


# running it ------------------------------------------------------------------------------------------


def launch(prefix: Path, environment: dict[str, str], config: dict[str, Any]) -> list[Pass]:
    """One torchrun launch, watched to its end, as the passes it made (several under `--sabotage all`).

    Raises:
        SmokeCrashed: a process died without a word (a signal, a full disk): the end of its log is in the error.
    """
    folder, ranks = Path(config["folder"]), config["ranks"]
    folder.mkdir(parents=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",  # else torchrun names the host by its full name, which need not resolve
        f"--nproc-per-node={ranks}",
        "-m",
        "verlock.smoke",
        str(path),
    ]
    log = folder / "log.txt"
    outcome = watchdog.supervise([str(prefix / "bin" / "python"), *torchrun], environment, folder, log)
    data, died = report.read(folder), report.errors(folder)
    if outcome.code and not outcome.hung and not died:
        raise SmokeCrashed(
            f"the smoke run ended with code {outcome.code} before it could report\n{_tail(log)}", f"all of it: {log}"
        )
    guard = _guard(data, outcome)
    measured = data["passes"] or [{"sabotage": config["sabotage"], "gates": []}]
    passes = []
    for number, each in enumerate(measured):
        last = number == len(measured) - 1
        found = report.complete(map(Gate.from_dict, each["gates"]), died[0] if died and last else None, ranks)
        details: dict[str, Any] = {"ranks": ranks, "gpus": config["gpus"]}
        if not number:
            details |= {
                key: data[key] for key in ("facts", "engine_seconds", "fingerprint", "samples", "phases") if key in data
            }
        if last:
            found.append(guard)
            details |= {"stacks": outcome.stacks} if outcome.stacks else {}
            details |= {"errors": died} if died else {}
        passes.append(
            Pass(config["mode"], config["tp"], each["sabotage"], found, outcome.seconds / len(measured), details)
        )
    return passes


def _guard(data: dict[str, Any], outcome: watchdog.Outcome) -> Gate:
    if outcome.hung:
        return gates.watchdog(outcome.silence, outcome.phase, outcome.limit, hung=True)
    phases = data.get("phases") or [["start", outcome.seconds, outcome.seconds + 1]]
    name, seconds, limit = max(phases, key=lambda phase: phase[1] / phase[2])
    return gates.watchdog(seconds, name, limit, hung=False)


def verl_configuration(recipe: Recipe, machine: Machine, folder: Path) -> dict[str, Any]:
    """What `python -m verlock.smoke.grpo` reads: see verlock/smoke/grpo.py. The arguments are those of `configuration`."""
    return {
        "folder": str(folder / "verl"),
        "model": str(folder / "model"),
        "version": recipe.verl.version,
        "memory_gib": machine.memory_mib / 1024,
        "flags": recipe.verl.flags,
        "sabotage": "",
    }


def verl_steps(prefix: Path, environment: dict[str, str], config: dict[str, Any]) -> Pass:
    """GRPO steps of verl itself, as a pass of one gate; a failure carries the end of verl's log."""
    folder = Path(config["folder"])
    folder.mkdir(parents=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    log = folder / "log.txt"
    with console.step("verl", f"GRPO steps with verl {config['version']}"):
        command = [str(prefix / "bin" / "python"), "-m", "verlock.smoke.grpo", str(path)]
        outcome = watchdog.supervise(command, environment, folder, log)
    done = folder / "grpo.json"
    data: dict[str, Any] = {"code": outcome.code, "metrics": {}, "steps": [], "standin": False}
    if done.exists():
        data = json.loads(done.read_text(encoding="utf-8"))
    died = report.errors(folder)
    gate = gates.grpo(data)
    if died or outcome.hung:
        why = died[0]["error"] if died else f"no end after {outcome.silence:.0f} s"
        gate = Gate("verl", gates.FAIL, "error", gate.bound, f"verl's steps did not end well: {why}")
    details = {**data, "ranks": 1, "gpus": 1, **({"stacks": outcome.stacks} if outcome.stacks else {})}
    if gate.verdict == gates.FAIL:
        details["log"] = _tail(log)
    gate = replace(gate, seconds=outcome.seconds)
    return Pass("verl", 1, config["sabotage"], [gate], outcome.seconds, details)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"    {line[:300]}" for line in lines[-TAIL:])

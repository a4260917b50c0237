"""`verlock smoke`: run verlock/smoke inside a built environment on this machine's GPUs, and judge what comes back.

A full pass is one launch per engine mode with one rank, one launch of verl's own steps, and launches with two ranks: on two
GPUs if there are two, else sharing one. Each green launch is kept, and all of them together become a certificate.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verlock import console, paths
from verlock.env import preflight
from verlock.errors import GateFailed, ModelRefused, NodeMissing, NoGpu, ReceiptStale, SmokeHung, VerlockError
from verlock.proving import certify, kept_parts, launch_config, own_model, smoke_launch
from verlock.proving.kept_parts import Kept
from verlock.proving.nodes import Agents, Place
from verlock.proving.passes import FULL, VERL, Part, Pass, over_nodes
from verlock.proving.smoke_options import Options
from verlock.proving.smoke_tables import show
from verlock.smoke import gates, sabotage
from verlock.system import files, gpu
from verlock.system.gpu import Gpus
from verlock.variant import receipt
from verlock.variant.chosen import Chosen


def run(chosen: Chosen, options: Options | None = None) -> int:
    """Prove one environment on this machine's GPUs: print the tables and, if everything is proven, write the certificate.

    If a launch fails, the others still run. What was green in an earlier run that was cut off is not run again, unless it is
    asked for by name.

    Raises:
        NoGpu, DriverTooOld, NotSealed, ReceiptStale, ModelRefused: it cannot start.
        NodesDiffer, NodeMissing: the agents of several nodes do not come together.
        GateFailed, SmokeHung, SmokeCrashed: it started, and failed.
    """
    options = options or Options()
    plan = options.plan()
    machine = needs(chosen)
    sealed = receipt.read(chosen.prefix)
    if sealed["digest"] != chosen.digest:
        remedy = f"`nox -s env-{chosen.name}` brings it up to date"
        raise ReceiptStale(f"{chosen.prefix} was made from another lock than the current one", remedy)
    if options.model and not options.json_path:
        options = replace(options, json_path=options.model.report_path(chosen, machine))
    bound = certify.identity(chosen, machine.name, sealed)
    proof = Proof(chosen, machine, options)
    try:
        (_run_whole if options.place or not options.proves else _run_kept)(proof, bound, plan)
    finally:
        if proof.agents:
            proof.agents.close()
    return 0


def _run_kept(proof: Proof, bound: dict[str, Any], plan: list[Part]) -> None:
    """A run of which each green launch is kept, until all of them make a certificate."""
    chosen, options = proof.chosen, proof.options
    kept = Kept(chosen.name, bound)
    if not options.narrowed and (known := kept.read()):
        plan = [part for part in plan if part not in known]
        console.say(f"proven by an earlier run, and not run again: {', '.join(part.name for part in known)}")
    for part in plan:
        found = proof.launch(part)
        show(chosen.name, found)
        kept.keep(part, proof.machine, found)
    across = _across(kept.read())
    show(chosen.name, across)
    if any(each.problem() for each in across):
        kept.clear()  # each launch was green by itself; nothing shows which one is wrong
    proof.finish(bound, across)
    _certify(chosen, bound, kept, across)


def _run_whole(proof: Proof, bound: dict[str, Any], plan: list[Part]) -> None:
    """A run of which nothing is kept: it breaks something, has the user's own model, or spans nodes."""
    chosen, options = proof.chosen, proof.options
    if options.place:
        proof.meet(options.place, bound, plan[0].ranks)
    ran: dict[Part, dict[str, Any]] = {}
    for part in plan:
        found = proof.launch(part)
        if options.leads:
            show(chosen.name, found)
        if found and not any(each.problem() for each in found):
            ran[part] = kept_parts.entry(proof.machine, found[0])
    across = _across(ran) if options.model or options.place else []
    if options.leads:
        show(chosen.name, across)
    proof.finish(bound, across)
    if not options.leads:
        console.say("all green; node 0 has the tables")
    elif options.model:
        console.say(f"all green with {options.model.name}; no certificate: that takes the tiny model")
    elif options.sabotage:
        console.say("every sabotage turned exactly its gate red")
    elif options.unpatched:
        console.say("green without the patches")
    elif set(plan) != set(over_nodes(plan[0].nodes, plan[0].ranks)):
        console.say("all green; a certificate over nodes takes all launches: leave out --mode and --tp")
    else:
        path = certify.write(chosen, bound, ran, [each.as_dict() for each in across])
        console.say(f"{chosen.name} is certified on {proof.passes[0].layout}: {paths.shown(path)}")


def _certify(chosen: Chosen, bound: dict[str, Any], kept: Kept, across: Sequence[Pass]) -> None:
    """Write the certificate if all parts are there; else say which are not."""
    known = kept.read()
    if missing := [part.name for part in FULL if part not in known]:
        console.say(f"all green; a certificate of {chosen.name} still needs {', '.join(missing)}")
        return
    path = certify.write(chosen, bound, known, [each.as_dict() for each in across])
    kept.clear()
    console.say(f"{chosen.name} is certified on {certify.gpu_name(known)}: {paths.shown(path)}")


@dataclass
class Proof:
    """One run: its launches and their results."""

    chosen: Chosen
    machine: Gpus
    options: Options
    passes: list[Pass] = field(default_factory=list)
    crashes: list[VerlockError] = field(default_factory=list)
    agents: Agents | None = None

    def __post_init__(self) -> None:
        self.start = time.monotonic()
        for gate, why in own_model.LEFT_OUT.items() if self.options.model else ():
            console.say(f"with your own model, gate {gate}: {why}")
        self.folder = Path(tempfile.mkdtemp(prefix=f"verlock-smoke-{self.chosen.name}-"))
        self.environment = launch_config.variables(self.chosen) | launch_config.caches(self.folder / "caches")
        if self.options.unpatched:
            over = smoke_launch.take_back(self.chosen, self.options.unpatched, self.folder)
            self.environment["PYTHONPATH"] = os.pathsep.join([str(over), self.environment["PYTHONPATH"]])

    def meet(self, place: Place, bound: dict[str, Any], ranks: int) -> None:
        """Wait for the agents of the other nodes; `ranks` is how many all nodes have together.

        Raises:
            NodeMissing, NodesDiffer: see `Agents`.
            NoGpu: this node has fewer GPUs than ranks.
        """
        try:
            with console.step("nodes", f"the agents of {place.count} nodes meet at {place.host}:{place.port}"):
                self.agents = Agents(place, {**self.options.same(), **certify.said(bound)})
            here = ranks // place.count
            if here > self.machine.count:
                raise NoGpu(
                    f"{here} ranks on every node take as many GPUs on each, and this one has {self.machine.count}",
                    f"give all agents --ranks {place.count * self.machine.count}",
                )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.environment |= launch_config.between_nodes(self.agents.address)

    def launch(self, part: Part) -> list[Pass]:
        """Run one part; a crash is recorded and gives no pass."""
        try:
            found = self._verl() if part == VERL else self._gates(part)
        except (ModelRefused, NodeMissing):  # no other launch would do better
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        except VerlockError as error:
            self.crashes.append(error)
            console.say(f"{self.chosen.name}, {part.name}: {error.problem}")
            return []
        self.passes += found
        return found

    def _gates(self, part: Part) -> list[Pass]:
        config = launch_config.configuration(self.chosen, self.machine, part, self.folder)
        if self.options.sabotage:
            config = launch_config.sabotaged(config, self.options.sabotage)
        if self.options.model:
            config = own_model.launched_with(config, self.options.model)
        where = gates.layout(part.ranks, config["gpus"], part.nodes)
        with console.step("smoke", f"{self.chosen.name}, {part.mode}, {where}, TP={part.tp}, {self.machine.name}"):
            found = smoke_launch.gates_run(self.chosen, self.environment, config, self.agents)
        return found + self._again(config, found[0]) if self.options.again else found

    def _again(self, config: dict[str, Any], first: Pass) -> list[Pass]:
        """The same launch again; how the two compare for one seed is printed and put into the details of the second."""
        with console.step("smoke", f"{self.chosen.name}, {first.label}, again"):
            config = {**config, "folder": f"{config['folder']}-again"}
            second = smoke_launch.gates_run(self.chosen, self.environment, config, self.agents)
        drawn = [each.details.get("samples", []) for each in (first, second[0])]
        second[0].details["again"] = str(gates.Repeat.of(*drawn)) if all(drawn) else "nothing to compare"
        console.say(f"the same seed in two processes: {second[0].details['again']}")
        return second

    def _verl(self) -> list[Pass]:
        config = launch_config.verl_configuration(self.chosen, self.machine, self.folder)
        if self.options.sabotage:
            config["sabotage"] = next(name for name, mode in sabotage.MODES.items() if mode.verl)
        return [smoke_launch.verl_run(self.chosen, self.environment, config)]

    def finish(self, bound: dict[str, Any], across: Sequence[Pass]) -> None:
        """Write the report; raise the error that fits if anything failed, else tidy up."""
        self._write(bound, across)
        self._judge(across)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, bound: dict[str, Any], across: Sequence[Pass]) -> None:
        """Write the whole report to the file the options name, if any."""
        if not self.options.json_path or not self.options.leads:
            return
        result = {
            "variant": self.chosen.name,
            **bound,
            "gpu": {**self.machine.__dict__},
            "unpatched": self.options.unpatched,
            **({"model": self.options.model.as_dict()} if self.options.model else {}),
            "problems": [*(error.problem for error in self.crashes), *self._problems(across)],
            "seconds": round(time.monotonic() - self.start, 1),
            "runs": [each.as_dict() for each in [*self.passes, *across]],
        }
        files.write_whole(self.options.json_path, json.dumps(result, indent=1) + "\n")
        if self.options.model:
            console.say(f"the report on {self.options.model.name}: {paths.shown(self.options.json_path)}")

    def _problems(self, across: Sequence[Pass]) -> list[str]:
        return [problem for each in [*self.passes, *across] if (problem := each.problem())]

    def _judge(self, across: Sequence[Pass]) -> None:
        """If anything failed, raise the error that fits best: a crash, a hang, else the gates by name."""
        problems = self._problems(across)
        remedy = f"logs, stacks and reports are in {self.folder}"
        if self.crashes:
            first = self.crashes[0]
            first.problem = "\n  ".join([first.problem, *(error.problem for error in self.crashes[1:]), *problems])
            raise first
        if not problems:
            return
        text = "\n  ".join(problems)
        hung = [each for each in self.passes if each.problem() and [gate.id for gate in each.red] == ["watchdog"]]
        if hung and all(not each.sabotage for each in hung):
            stacks = "\n".join(f"--- rank {rank}\n{stack}" for rank, stack in hung[0].details.get("stacks", {}).items())
            raise SmokeHung(f"{text}\n{stacks}", remedy)
        logs = [each.details["log"] for each in self.passes if each.red and each.details.get("log")]
        raise GateFailed("\n".join([text, *logs]), remedy)


def needs(chosen: Chosen) -> Gpus:
    """The GPUs of this machine, if there are any. Raises NoGpu (saying what is needed) or DriverTooOld."""
    recipe = chosen.recipe
    found = gpu.find()
    if not found:
        raise NoGpu(
            f"a smoke run of {chosen.name} needs an NVIDIA GPU with driver {recipe.cuda.min_driver} or newer "
            f"(CUDA {recipe.cuda.version}), and nvidia-smi shows none here",
            "run it on a GPU machine; nothing was tested",
        )
    preflight.check_driver(recipe, found.driver)
    return found


def _across(known: dict[Part, dict[str, Any]]) -> list[Pass]:
    """Gate 9 across launches: for every layout, compare the greedy answers of the eager and the graphs engine."""
    found = []
    for part, data in known.items():
        other = known.get(replace(part, mode="graphs"))
        if part.mode == "eager" and other:
            gate = gates.two_engines(data["run"]["fingerprint"], other["run"]["fingerprint"])
            details = {key: data["run"][key] for key in ("ranks", "gpus", "nodes", "model") if key in data["run"]}
            found.append(Pass("eager and graphs", part.tp, "", [gate], 0.0, details))
    return found

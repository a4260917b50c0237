"""What a smoke run is asked to prove, and the launches that this takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verlock.errors import VerlockError
from verlock.proving.nodes import Place
from verlock.proving.own_model import OwnModel
from verlock.proving.passes import VERL, Part, over_nodes
from verlock.smoke import sabotage

MODES = ("eager", "graphs")


@dataclass(frozen=True)
class Options:
    """How much to prove.

    Attributes:
        ranks: how many ranks; 0 is the full pass: one, then two. Ranks beyond the GPUs share them. On several nodes, all of them
            together; 0 is one on each.
        mode: only eager, graphs or verl (verl's own steps). Under sabotage graphs is the default: there all gates have work.
        tp: only this tensor-parallel size.
        sabotage: one of sabotage.MODES, or `all`: succeeds when exactly the targeted gate turns red.
        verl: also run verl's own steps.
        again: make every launch of the gates a second time, to compare what one seed gives in two processes.
        unpatched: run without this patch of the recipe's (how its file name begins, or `all` of them), to see what it is for;
            never gives a certificate.
        model: the user's own, in the place of the tiny one; never gives a certificate, and leaves out verl's own steps.
        json_path: where the whole report goes.
        place: which node this is, in a run that spans several: its pass is `passes.over_nodes`.
    """

    ranks: int = 0
    mode: str = ""
    tp: int = 0
    sabotage: str = ""
    verl: bool = True
    again: bool = False
    unpatched: str = ""
    model: OwnModel | None = None
    json_path: Path | None = None
    place: Place | None = None

    @property
    def leads(self) -> bool:
        """Does this node show the tables, and write reports and certificates?"""
        return not self.place or self.place.leads

    @property
    def proves(self) -> bool:
        """Does this test the environment as it is, with the model whose bounds were measured?"""
        return not (self.sabotage or self.unpatched or self.model)

    @property
    def narrowed(self) -> bool:
        """Were only certain launches asked for? They run even if proven before."""
        return bool(self.ranks or self.mode or self.tp)

    def plan(self) -> list[Part]:
        """The launches, in order."""
        if self.sabotage:
            return self._to_break()
        if self.place:
            return self._over_nodes(self.place.count)
        wanted = []
        for ranks in (self.ranks,) if self.ranks else (1, 2):
            wanted += [Part(mode, ranks, ranks) for mode in MODES]
            wanted.append(VERL if ranks == 1 else Part("eager", ranks, 1))
        mode, verl = "eager" if self.unpatched else self.mode, self.verl and not self.model
        found = [
            each
            for each in wanted
            if (not mode or each.mode == mode) and (not self.tp or each.tp == self.tp) and (verl or each != VERL)
        ]
        ranks, tp = self.ranks or self.tp or 1, self.tp or 1
        if not found and ranks % tp:
            raise VerlockError(f"{ranks} ranks make no replicas of {tp} ranks each", "let --tp divide --ranks")
        return found or [Part(self.mode or "eager", ranks, tp)]

    def _over_nodes(self, nodes: int) -> list[Part]:
        ranks = self.ranks or nodes
        if ranks % nodes or ranks % (self.tp or 1):
            raise VerlockError(
                f"{ranks} ranks do not make {nodes} equal nodes, or replicas of {self.tp or ranks} ranks each",
                "let --nnodes and --tp divide --ranks",
            )
        mode = "eager" if self.unpatched else self.mode
        wanted = [each for each in over_nodes(nodes, ranks) if not self.tp or each.tp == self.tp]
        found = [each for each in wanted if not mode or each.mode == mode]
        return found or [Part(mode or "eager", ranks, self.tp or ranks, nodes)]

    def same(self) -> dict[str, str]:
        """What the agents of all nodes must have been given alike, by its option."""
        given = {
            "ranks": self.ranks,
            "mode": self.mode,
            "tp": self.tp,
            "again": self.again,
            "unpatched": self.unpatched,
            "model": self.model.name if self.model else "",
        }
        return {f"--{name}": str(value or "not given") for name, value in given.items()}

    def _to_break(self) -> list[Part]:
        ranks = self.ranks or 1
        gates_run = Part(self.mode or "graphs", ranks, self.tp or ranks)
        if self.sabotage == sabotage.ALL:
            return [gates_run, *([VERL] if self.verl else [])]
        broken = sabotage.MODES[self.sabotage]
        if broken.graphs and gates_run.mode == "eager":
            raise VerlockError(f"--sabotage {self.sabotage} breaks CUDA graphs", "leave out --mode eager")
        return [VERL if broken.verl else gates_run]

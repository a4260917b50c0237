"""What a smoke run is made of: parts, each of them one launch, and the passes through the gates that they give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from verlock.smoke import gates, sabotage
from verlock.smoke.gates import Gate


@dataclass(frozen=True)
class Part:
    """One launch of a smoke run: its mode (eager, graphs, or verl for verl's own steps), and how the ranks are laid out."""

    mode: str
    ranks: int = 1
    tp: int = 1
    nodes: int = 1

    @property
    def name(self) -> str:
        """The part's name in paths."""
        return f"{self.mode}-ranks{self.ranks}-tp{self.tp}{f'-nodes{self.nodes}' if self.nodes > 1 else ''}"

    @property
    def said(self) -> str:
        """The part in a sentence: `2 ranks TP=2 graphs`."""
        if self.mode == "verl":
            return "verl's steps"
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.ranks} rank{'s' if self.ranks > 1 else ''} TP={self.tp} {self.mode}{nodes}"


VERL = Part("verl")
# One rank in both engine modes and verl's own steps; then two ranks, as one tensor parallel replica and as two replicas.
FULL = (
    Part("eager"),
    Part("graphs"),
    VERL,
    Part("eager", ranks=2, tp=2),
    Part("graphs", ranks=2, tp=2),
    Part("eager", ranks=2, tp=1),
)


def over_nodes(nodes: int, ranks: int) -> tuple[Part, ...]:
    """The launches of a pass that spans nodes: all ranks as one tensor parallel replica, and as a replica each.

    Everything that fits on one machine is left to a full pass there.
    """
    return (
        Part("eager", ranks, ranks, nodes),
        Part("graphs", ranks, ranks, nodes),
        Part("eager", ranks, 1, nodes),
    )


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
        layout = f", {self.layout}, TP={self.tp}" if self.details.get("ranks", 1) > 1 else ""
        again = " again" if "again" in self.details else ""
        model = f", {self.details['model']}" if "model" in self.details else ""
        return f"{self.mode}{again}{model}{layout}{f' --sabotage {self.sabotage}' if self.sabotage else ''}"

    @property
    def layout(self) -> str:
        """How many ranks are on how many GPUs, in words."""
        return gates.layout(self.details.get("ranks", 1), self.details.get("gpus", 1), self.details.get("nodes", 1))

    @property
    def timing(self) -> str:
        """How long it took, and how much of that was the engine's start and the gates."""
        measured = sum(gate.seconds for gate in self.gates)
        engine = f"engine {self.details['engine_seconds']:.0f} s, " if "engine_seconds" in self.details else ""
        return f"{self.seconds:.0f} s ({engine}gates {measured:.0f} s)"

    @property
    def red(self) -> list[Gate]:
        """The gates that failed."""
        return [gate for gate in self.gates if gate.verdict == gates.FAIL]

    def problem(self) -> str:
        """Empty if the pass is as it should be: all green, or under sabotage red in exactly the targeted gate."""
        if self.sabotage:
            if self.details.get("code") or self.details.get("errors"):
                return f"{self.label}: the run died, which shows nothing of the gate that was to turn red"
            return sabotage.verdict(self.sabotage, self.gates)
        return (
            f"{self.label}: " + "; ".join(f"gate {gate.id}: {gate.sentence}" for gate in self.red) if self.red else ""
        )

    def as_dict(self) -> dict[str, Any]:
        """The pass, ready for JSON."""
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

"""The measurements, in order. What they mean is in `gates`; what breaks them on purpose is in `sabotage`.

Every gate makes its own rollout on its own prompts, so that one broken thing turns one gate red: only gate 5 sends prompts
that the engine has seen, and gates 4, 5 and 10 each do their own sync.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from verlock.smoke import gates, model
from verlock.smoke.gates import Agreement, Gate, Repeat
from verlock.smoke.rollout import GREEDY, PLAIN, Request, Sampling
from verlock.smoke.shards import neighbour_half, shards_of

if TYPE_CHECKING:
    import torch

    from verlock.smoke.rollout import Engine, Generated
    from verlock.smoke.trainer import Step, Trainer

NOISE = 0.1  # nats; mean abs 0.08, four times the bound
CYCLES = 3
SAMPLERS = {"temperature": Sampling(temperature=0.9), "top-p": Sampling(top_p=0.95)}
# The first token comes from the prompt's forward, which no graph runs; long texts diverge at near ties.
NEW_FOR_GRAPHS = 4


@dataclass(frozen=True)
class Sizes:
    """How much every gate asks for."""

    prompts: int = 32
    length: int = 64
    new: int = 64
    # Gate 5: a longer cached prefix has more influence on what is generated.
    cached_prompts: int = 8
    cached_length: int = 512
    cached_new: int = 16
    steps: int = 3
    sampled_prompts: int = 128  # gate 11 needs 8,192 tokens


@dataclass(frozen=True)
class Setting:
    """What a run is given.

    Attributes:
        mode: eager or graphs.
        baseline: GiB in use before the engine started.
        per_process: memory is counted for each process, not for its whole device.
        sizes: how much every gate asks for.
        own: the model is the user's own: how its weights are cut into shards is not known.
    """

    mode: str
    baseline: float
    per_process: bool
    sizes: Sizes
    own: bool = False


class World(Protocol):
    """The ranks of this run; `gpus` is the number of GPUs they are on, on all `nodes` together."""

    rank: int
    local_rank: int
    size: int
    tp: int
    gpus: int
    nodes: int

    def gather(self, mine: Any) -> list[Any]:
        """What every rank has, in rank order; collective."""

    def barrier(self) -> None:
        """Wait for every rank."""


Phase = Callable[[str], AbstractContextManager[None]]


class Suite:
    """One pass through the gates, on every rank alike; gates that need the trainer's forward are collective."""

    def __init__(self, engine: Engine, trainer: Trainer, world: World, setting: Setting, phase: Phase) -> None:
        self.engine = engine
        self.trainer = trainer
        self.world = world
        self.setting = setting
        self.sizes = setting.sizes
        self.phase = phase
        # ids that both the model and its tokenizer have: models pad their vocabulary
        self.vocabulary = min(engine.vocabulary, engine.tokenizer) if setting.own else model.VOCABULARY
        self.fingerprint: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self._calls = 0

    # what the gates share ------------------------------------------------------------------------

    @property
    def replica(self) -> int:
        """Which model replica this rank belongs to."""
        return self.world.rank // self.world.tp

    def prompts(self, label: str, count: int, length: int) -> list[tuple[int, ...]]:
        """This replica's own prompts: ranks of one tensor parallel group get the same."""
        return model.prompts(f"{label}/{self.replica}", count, length, self.vocabulary)

    def generate(self, prompts: Sequence[tuple[int, ...]], **ask: Any) -> list[list[Generated]]:
        """A rollout; every call has a new seed, the same on all ranks of one replica."""
        self._calls += 1
        return self.engine.generate(prompts, Request(seed=1_000_003 * self.replica + self._calls, **ask))

    def sample(self, prompts: Sequence[tuple[int, ...]], new: int, how: Sampling = PLAIN) -> list[Generated]:
        """One sampled continuation per prompt."""
        return [outputs[0] for outputs in self.generate(prompts, new=new, how=how)]

    def compare(self, sequences: Sequence[Generated]) -> list[Agreement]:
        """The engine's logprobs of `sequences` against the trainer's, per rank; collective."""
        theirs = [value for each in sequences for value in each.logprobs]
        return self.world.gather(Agreement.of(self.trainer.logprobs(sequences), theirs))

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]] | None = None, *, reset: bool = True) -> None:
        """Hand the trainer's weights (or those given) to the engine and reset its prefix cache; collective."""
        self.engine.load(self.trainer.weights().items() if weights is None else weights)
        if reset:
            self.engine.reset_prefix_cache()

    def restart(self) -> None:
        """Back to the initial weights on both sides, for another pass."""
        self.trainer.reset()
        self.sync()

    # the pass ------------------------------------------------------------------------------------

    def run(self, sabotage: str = "") -> Iterator[Gate]:
        """Measure gates 2 to 12 and yield each once it is measured; `sabotage` names what to break (see `sabotage.MODES`)."""
        self.steps: list[Step] = []
        yield self._timed("2", lambda: self.greedy(off=sabotage == "layer-off"))
        three, sequences = self._measured("3", lambda: self.before_training(noisy=sabotage == "noisy-logprobs"))
        yield three
        yield self._timed("12", lambda: self.same_seed(other=sabotage == "other-seed"))
        awake = sabotage == "no-sleep"
        yield self._timed(
            "4",
            lambda: self.weight_sync(
                sequences, skipped=sabotage == "skip-sync", poisoned=1 if sabotage == "nan-loss" else None, awake=awake
            ),
        )
        yield self._timed("5", lambda: self.prefix_cache(sequences, stale=sabotage == "stale-cache"))
        yield self._timed("6", lambda: self.sleeping(awake=awake))
        yield self._timed("7", lambda: self.batch(dropped=sabotage == "drop-sequence"))
        yield self._timed("8", self.training)
        yield self._timed("9", lambda: self.graphs(stale=sabotage == "stale-graph"))
        yield self._timed("10", lambda: self.ranks(neighbours=sabotage == "wrong-rank"))
        yield self._timed("11", lambda: self.sampler(SAMPLERS.get(sabotage, PLAIN)))

    def _timed(self, ident: str, measure: Callable[[], Gate]) -> Gate:
        return self._measured(ident, lambda: (measure(), None))[0]

    def _measured(self, ident: str, measure: Callable[[], tuple[Gate, Any]]) -> tuple[Gate, Any]:
        start = time.monotonic()
        with self.phase(f"gate {ident}"):
            gate, kept = measure()
        return replace(gate, seconds=time.monotonic() - start), kept

    # the gates -----------------------------------------------------------------------------------

    def greedy(self, off: bool) -> Gate:
        """Gate 2; its answers, at the initial weights, also serve to compare runs of different modes."""
        prompts = self.prompts("greedy", self.sizes.prompts, self.sizes.length)
        answers = [outputs[0] for outputs in self.generate(prompts, new=self.sizes.new // 2, how=GREEDY, top=gates.TOP)]
        with self.trainer.one_layer_off() if off else nullcontext():
            likely = self.trainer.top(answers, gates.TOP)
        positions = mutual = 0
        for answer, trainers in zip(answers, likely, strict=True):
            for token, ours, theirs in zip(answer.tokens, answer.top, trainers, strict=True):
                positions += 1
                mutual += token in theirs and theirs[0] in ours
        self.fingerprint = [
            {"tokens": list(each.tokens[:16]), "logprobs": list(each.logprobs[:16])} for each in answers[:8]
        ]
        return gates.greedy(
            self.world.gather(
                {
                    "positions": positions,
                    "mutual": mutual,
                    "largest_id": max(token for each in answers for token in each.tokens),
                    "tokenizer": self.engine.tokenizer,
                }
            )
        )

    def before_training(self, noisy: bool) -> tuple[Gate, list[Generated]]:
        """Gate 3, and the sequences the trainer then learns from."""
        sequences = self.sample(self.prompts("before", self.sizes.prompts, self.sizes.length), self.sizes.new)
        reported = [_noisy(each) for each in sequences] if noisy else sequences
        agreements = self.compare(reported)
        self.reference = Agreement.worst(agreements).mean
        return gates.before_training(agreements), sequences

    def same_seed(self, other: bool) -> Gate:
        """Gate 12, at the initial weights; its samples also serve to compare two processes."""
        prompts = self.prompts("seed", max(self.sizes.prompts // 2, 2), self.sizes.length)
        drawn = []
        for again in (False, True):
            self.engine.reset_prefix_cache()  # a cached prefix uses another kernel, which rounds differently
            seed = 1_000_003 * self.replica - 1 - (again and other)
            answers = self.engine.generate(prompts, Request(new=self.sizes.new // 2, seed=seed % 2**32))
            drawn.append([{"tokens": outputs[0].tokens, "logprobs": outputs[0].logprobs} for outputs in answers])
        self.samples = drawn[0]
        return gates.same_seed(self.world.gather(Repeat.of(*drawn)))

    def weight_sync(self, sequences: Sequence[Generated], skipped: bool, poisoned: int | None, awake: bool) -> Gate:
        """Gate 4, in the order of a training step: the engine sleeps, the trainer learns, the engine wakes, weights are sent."""
        if not awake:
            self.engine.sleep()
        self.steps += self.trainer.train(sequences, self.sizes.steps, poisoned)
        if not awake:
            self.engine.wake()
        ordered = self.engine.ordered()  # before the trainer's next forward, which would repair it
        stale = self.compare(self.sample(self.prompts("stale", self.sizes.prompts, self.sizes.length), self.sizes.new))
        if not skipped:
            self.sync()
        synced = self.compare(
            self.sample(self.prompts("synced", self.sizes.prompts, self.sizes.length), self.sizes.new)
        )
        return gates.sync(self.reference, stale, synced, self.world.gather(ordered))

    def prefix_cache(self, sequences: Sequence[Generated], stale: bool) -> Gate:
        """Gate 5: the engine stays awake, because sleep also resets the cache."""
        prompts = self.prompts("cached", self.sizes.cached_prompts, self.sizes.cached_length)
        before = self.sample(prompts, self.sizes.cached_new)
        self.steps += self.trainer.train(sequences, self.sizes.steps)
        changed = self.compare(before)
        self.sync(reset=not stale)
        fresh = self.compare(self.sample(prompts, self.sizes.cached_new))
        return gates.prefix_cache(self.reference, changed, fresh)

    def sleeping(self, awake: bool) -> Gate:
        """Gate 6; `awake` makes sleep and wake do nothing."""
        prompts = self.prompts("sleep", 8, self.sizes.length)
        before = self._greedy_ids(prompts)
        held = self._held() if self.setting.own else {}
        in_use = self._memory()
        asleep = []
        same = 0
        for _ in range(CYCLES):
            if not awake:
                self.engine.sleep()
            asleep.append(self._memory())
            if not awake:
                self.engine.wake()
            after = self._greedy_ids(prompts)
            same += sum(a == b for a, b in zip(before, after, strict=True))
        wrong, shards = self._changed(held) if self.setting.own else self._wrong_shards(self.trainer.weights())
        mine = {
            "wrong": wrong,
            "shards": shards,
            "baseline": self.setting.baseline,
            "awake": in_use,
            "asleep": asleep,
            "same": same,
            "compared": CYCLES * len(prompts),
        }
        sharers = -(-self.world.size // self.world.gpus)
        return gates.sleeping(self.world.gather(mine), self.setting.per_process, sharers, own=self.setting.own)

    def _held(self) -> dict[str, torch.Tensor]:
        """A copy of the engine's weights on the CPU."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.engine.parameters().items()}

    def _changed(self, before: dict[str, torch.Tensor]) -> tuple[list[str], int]:
        """Which of the engine's weights are not, bit for bit, what they were `before`, and how many there are."""
        import torch

        live = self.engine.parameters()
        changed = [name for name, value in before.items() if not torch.equal(live[name].cpu(), value)]
        return changed, len(before)

    def _memory(self) -> float:
        """Memory in use while all ranks are at this same point: another rank's engine may be on the same GPU."""
        self.world.barrier()
        in_use = self.engine.memory(self.setting.per_process)
        self.world.barrier()
        return in_use

    def _greedy_ids(self, prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Greedy answers with an empty prefix cache: a cached prefix uses another kernel, which rounds differently."""
        self.engine.reset_prefix_cache()
        return [outputs[0].tokens for outputs in self.generate(prompts, new=self.sizes.new // 2, how=GREEDY)]

    def batch(self, dropped: bool) -> Gate:
        """Gate 7."""
        prompts = self.prompts("batch", max(self.sizes.prompts // 2, 2), self.sizes.length)
        answers = self.generate(prompts, new=self.sizes.new // 2, n=4)
        if dropped and self.world.rank == 0:
            answers[-1] = answers[-1][:-1]
        return gates.batch(
            self.world.gather(
                {
                    "prompts": len(prompts),
                    "n": 4,
                    "asked": self.sizes.new // 2,
                    "lengths": [[len(each.tokens) for each in outputs] for outputs in answers],
                    "distinct": [len({each.tokens for each in outputs}) for outputs in answers],
                }
            )
        )

    def training(self) -> Gate:
        """Gate 8, on the steps that gates 4 and 5 took."""
        mine = {
            "losses": [step.loss for step in self.steps],
            "grad_norms": [step.grad_norm for step in self.steps],
            "moved": self.trainer.moved(),
        }
        return gates.training(self.world.gather(mine))

    def graphs(self, stale: bool) -> Gate:
        """Gate 9: the same prompts through CUDA graphs, then through the eager forward of the same engine."""
        prompts = self.prompts("graphs", self.sizes.prompts, self.sizes.length)
        ask = {"new": NEW_FOR_GRAPHS, "how": GREEDY, "top": gates.TOP}
        self.engine.reset_prefix_cache()
        start = self.engine.replays()
        with self.engine.stale_graphs() if stale else nullcontext():
            through_graphs = [outputs[0] for outputs in self.generate(prompts, **ask)]
        mine: dict[str, Any] = {"replayed": self.engine.replays() - start}
        if self.setting.mode == "graphs":
            self.engine.reset_prefix_cache()
            start = self.engine.replays()
            with self.engine.eager():
                eagerly = [outputs[0] for outputs in self.generate(prompts, **ask)]
            mine["eager_replayed"] = self.engine.replays() - start
            ours, theirs = _decoded(through_graphs, eagerly)
            mine |= {"agreement": Agreement.of(ours, theirs), "positions": len(prompts) * (NEW_FOR_GRAPHS - 1)}
        return gates.graphs(self.setting.mode, self.world.gather(mine))

    def ranks(self, neighbours: bool) -> Gate:
        """Gate 10: a sync, then every rank says where it is, what it holds and what it generates."""
        weights = self.trainer.weights()
        sent = {name: neighbour_half(name, value) for name, value in weights.items()} if neighbours else weights
        self.sync(sent.items())
        wrong, shards = ([], None) if self.setting.own else self._wrong_shards(weights)
        share = [index for index in range(8) if index % (self.world.size // self.world.tp) == self.replica]
        common = model.prompts("ranks", 8, self.sizes.length, self.vocabulary)
        sampled = self.sample([common[index] for index in share], 16)
        if neighbours:
            self.sync(weights.items())
        mine = {
            "rank": self.world.rank,
            "local_rank": self.world.local_rank,
            "world": self.world.size,
            **self.engine.placement(),
            "wrong": wrong,
            "shards": shards,
            "greedy": tuple(self._greedy_ids(common)),
            "sampled": tuple(each.tokens for each in sampled),
            "prompts": [share[place] for place, each in enumerate(sampled) if each.prompt == common[share[place]]],
        }
        return gates.ranks_agree(self.world.gather(mine), self.world.tp, self.world.gpus, self.world.nodes)

    def sampler(self, how: Sampling) -> Gate:
        """Gate 11; `how` is only for the engine: the trainer always uses the plain distribution."""
        prompts = self.prompts("sampler", self.sizes.sampled_prompts, self.sizes.length)
        mine = self.trainer.draws(self.sample(prompts, self.sizes.new, how))
        return gates.sampler(self.world.gather(mine)[:: self.world.tp])  # ranks of one replica drew the same tokens

    def _wrong_shards(self, weights: dict[str, torch.Tensor]) -> tuple[list[str], int]:
        """Which of this rank's live engine parameters are not, bit for bit, its shard of `weights`."""
        import torch

        live = self.engine.parameters()
        expected = shards_of(weights, self.world.rank % self.world.tp, self.world.tp)
        wrong = [
            name
            for name, value in expected.items()
            # The engine pads the vocabulary; rows beyond the trainer's are not weights.
            if name not in live or not torch.equal(live[name][: value.shape[0]].to(value.dtype), value)
        ]
        return wrong, len(expected)


def _noisy(sequence: Generated) -> Generated:
    draw = random.Random(str(sequence.tokens))
    return replace(sequence, logprobs=tuple(value + draw.gauss(0.0, NOISE) for value in sequence.logprobs))


def _decoded(one: Sequence[Generated], other: Sequence[Generated]) -> tuple[list[float], list[float]]:
    """Logprobs of decoded tokens (not the first one, which the prompt's forward gives) while both texts are still the same.

    At the position where the texts diverge, the first text's token is still compared if the other engine lists it.
    """
    ours: list[float] = []
    theirs: list[float] = []
    for a, b in zip(one, other, strict=True):
        for place in range(len(a.tokens)):
            if place and (logprob := b.top[place].get(a.tokens[place])) is not None:
                ours.append(a.logprobs[place])
                theirs.append(logprob)
            if a.tokens[place] != b.tokens[place]:
                break
    return ours, theirs

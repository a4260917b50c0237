"""The gates of a smoke run: pure logic on measured numbers, standard library only.

Every function takes what was measured and returns a `Gate`: value, bound, verdict, and one sentence when it fails. What
several ranks measured comes as a list, and the worst rank decides. A NaN never passes: comparisons are written so that
it fails them.

Where the bounds come from: NeMo-RL allows a mean exp(abs(dlogp)) of 1.043, SkyRL a mean abs(dlogp) of 0.0104, verl's FAQ
calls differences above 0.01 a problem; on an H100 this model measured 0.001-0.0025 in bf16 when weights agree and 0.47 when
they do not, so 0.02 and 1.05 are far from both. vLLM's own sleep tests allow 2 GiB (V0) and 7 GiB (V1) asleep; with this
model 1.8 GiB were measured in all, context and trainer included. Those figures are of the model before its output layer was made
2.2 times as large (see `model`), which makes differences of logprobs about 2.4 times as large: measured on a CPU, not yet on a
GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

PASS, FAIL, SKIP = "pass", "fail", "skip"

DLOGP_BOUND = 0.02
CHANGED_LEAST = 0.1  # of the weights: AdamW moves all of them, and bf16 rounds the smaller moves away
EXP_DLOGP_BOUND = 1.05
CHANGE_FACTOR = 10.0
RESIDUAL_BOUND_GIB = 3.0
GROWTH_BOUND_GIB = 0.25
NO_BOUND = "reported, no bound"
# In standard deviations: by chance alone, 4.5 is exceeded once in 150,000 times.
SAMPLER_BOUND = 4.5
TOP = 5

NAMES = {
    "1": "imports, versions, engine",
    "2": "greedy: top 5 agree",
    "3": "logprobs before training",
    "4": "weight sync, both directions",
    "5": "prefix cache after a sync",
    "6": "sleep and wake, three times",
    "7": "n=4 and a complete batch",
    "8": "loss, gradients, parameters",
    "9": "CUDA graphs and eager",
    "10": "ranks, shards, replicas",
    "11": "sampled from its distribution",
    "12": "same seed, same answers",
    "verl": "three GRPO steps of verl",
    "watchdog": "progress within time",
}
MEASURED_INSIDE = tuple(str(number) for number in range(1, 13))


@dataclass(frozen=True)
class Gate:
    """One line of the report."""

    id: str
    verdict: str
    value: str
    bound: str
    sentence: str = ""
    seconds: float = 0.0
    note: str = ""

    @property
    def name(self) -> str:
        """What the gate is about, for people."""
        return NAMES[self.id]

    def as_dict(self) -> dict[str, Any]:
        """The gate, ready for JSON."""
        return {**asdict(self), "name": self.name}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Gate:
        """The gate from a report's JSON."""
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})


@dataclass(frozen=True)
class Agreement:
    """How far two sets of logprobs of the same tokens are apart, over all tokens.

    Attributes:
        mean: mean abs(dlogp), in nats.
        mean_exp: mean exp(abs(dlogp)); NeMo-RL's token_mult_prob_error.
        count: how many tokens.
        odd: how many are not finite numbers: the trainer's, the engine's.
        kl: mean of exp(r) - 1 - r with r = trainer - engine, in nats; NeMo-RL's gen_kl_error.
    """

    mean: float
    mean_exp: float
    count: int
    odd: tuple[int, int] = (0, 0)
    kl: float = math.nan

    @property
    def nemo(self) -> str:
        """The figures as NeMo-RL reports them; its runs must stay below 1.05 and 0.001."""
        return f"token_mult_prob_error {self.mean_exp:.4f}, gen_kl_error {self.kl:.1e}"

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Agreement:
        """Compare token by token. Both must have the same length; nothing to compare gives NaN, which no gate passes."""
        if len(ours) != len(theirs):
            raise ValueError(f"{len(ours)} logprobs against {len(theirs)}")
        ratios = [a - b for a, b in zip(ours, theirs, strict=True)]
        if not ratios:
            return cls(math.nan, math.nan, 0)
        count = len(ratios)
        trainer, engine = (sum(not math.isfinite(value) for value in side) for side in (ours, theirs))
        return cls(
            mean=sum(map(abs, ratios)) / count,
            mean_exp=sum(_exp(abs(r)) for r in ratios) / count,
            count=count,
            odd=(trainer, engine),
            kl=sum(_exp(r) - 1.0 - r for r in ratios) / count,
        )

    @classmethod
    def worst(cls, ranks: Sequence[Agreement]) -> Agreement:
        """The rank that is furthest off; one NaN makes it NaN."""
        if any(not math.isfinite(each.mean) for each in ranks):
            return cls(math.nan, math.nan, sum(each.count for each in ranks))
        return max(ranks, key=lambda each: each.mean)


def _exp(value: float) -> float:
    """exp, kept below overflow (709 nats): such a value fails in any case."""
    return math.exp(min(value, 700.0)) if value == value else math.nan


def _gate(ident: str, problems: Sequence[str], value: str, bound: str, note: str = "") -> Gate:
    return Gate(ident, FAIL if problems else PASS, value, bound, "; ".join(problems), note=note)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def environment(facts: Mapping[str, Any], expected: Mapping[str, Any]) -> Gate:
    """Gate 1: what is installed and what really runs, against what the lock and the recipe say.

    Args:
        facts: versions, engine, imports (module -> error text, empty when fine), driver, cuda, cxx11abi.
        expected: versions, engine, and where known min_driver, cuda, cxx11abi.
    """
    problems = [f"{module} does not import: {error}" for module, error in facts["imports"].items() if error]
    problems += [
        f"{package} is {facts['versions'].get(package, 'missing')}, the lock says {version}"
        for package, version in expected["versions"].items()
        if facts["versions"].get(package) != version
    ]
    if facts["engine"] != expected["engine"]:
        problems.append(f"the live engine is {facts['engine']}, the recipe says {expected['engine']}")
    least = expected.get("min_driver")
    if least and _version(facts["driver"]) < _version(least):
        problems.append(f"the driver is {facts['driver']}, CUDA {facts['cuda']} needs {least}")
    if expected.get("cuda") and facts["cuda"] != expected["cuda"]:
        problems.append(f"torch was built for CUDA {facts['cuda']}, the recipe says {expected['cuda']}")
    if expected.get("cxx11abi") is not None and facts["cxx11abi"] != expected["cxx11abi"]:
        problems.append(f"torch has cxx11abi={facts['cxx11abi']}, extension wheels are for {expected['cxx11abi']}")
    value = f"{facts['engine']}, driver {facts['driver']}, CUDA {facts['cuda']}, cxx11abi {facts['cxx11abi']}"
    bound = f"{expected['engine']}, {len(expected['versions'])} versions as locked, all imports"
    return _gate("1", problems, value, bound)


def of_nodes(ranks: Sequence[Gate], nodes: int) -> Gate:
    """Gate 1 of a run on several nodes: the first that is red, with its node, else that of node 0.

    Args:
        ranks: the gate as each rank found it, in rank order.
        nodes: how many there are; each has the same number of ranks.
    """
    for rank, gate in enumerate(ranks):
        if gate.verdict == FAIL:
            return replace(gate, sentence=f"on node {rank * nodes // len(ranks)}: {gate.sentence}")
    return ranks[0]


def greedy(ranks: Sequence[Mapping[str, int]]) -> Gate:
    """Gate 2: at every greedy position each side's choice is among the other's five most likely, and every id is a token.

    Args:
        ranks: per rank positions, mutual, largest_id, tokenizer (its size), vocabulary (the engine's).
    """
    positions = sum(rank["positions"] for rank in ranks)
    mutual = sum(rank["mutual"] for rank in ranks)
    largest = max(rank["largest_id"] for rank in ranks)
    size = min(rank["tokenizer"] for rank in ranks)
    problems = []
    if not positions or mutual < positions:
        problems.append(
            f"at {positions - mutual} of {positions} positions the engine and the trainer do not have each other's choice "
            "in their top 5: they do not compute the same model"
        )
    if largest >= size:
        problems.append(f"token id {largest} is beyond the tokenizer's {size} tokens")
    return _gate("2", problems, f"{mutual}/{positions}, ids <= {largest}", f"all, ids < {size}")


def before_training(ranks: Sequence[Agreement]) -> Gate:
    """Gate 3: the engine's logprobs of its own samples are the trainer's, before any training."""
    worst = Agreement.worst(ranks)
    problems = []
    if not worst.mean <= DLOGP_BOUND or not worst.mean_exp <= EXP_DLOGP_BOUND:
        problems.append("for the same tokens and weights, the engine reports other logprobs than the trainer computes")
    value = f"{worst.mean:.4f}, exp {worst.mean_exp:.4f}"
    return _gate("3", problems, value, f"mean <= {DLOGP_BOUND}, exp <= {EXP_DLOGP_BOUND}", note=worst.nemo)


def changed_bound(reference: float) -> float:
    """How far apart old and new weights must be: ten times gate 3's value, or ten times its bound if that is less."""
    return CHANGE_FACTOR * (min(reference, DLOGP_BOUND) if reference == reference else DLOGP_BOUND)


def sync(reference: float, stale: Sequence[Agreement], synced: Sequence[Agreement], ordered: Sequence[bool]) -> Gate:
    """Gate 4: after training and without a sync the two must disagree; after the sync they agree again.

    Args:
        reference: gate 3's mean abs(dlogp).
        stale: per rank, trained weights against the engine's old ones.
        synced: per rank, after the weights were sent.
        ordered: per rank, whether right after training the engine's collectives would run on the stream its model runs on.
    """
    least = changed_bound(reference)
    closest = min(stale, key=lambda each: each.mean if each.mean == each.mean else -1.0)
    worst = Agreement.worst(synced)
    problems = []
    if not math.isfinite(closest.mean):
        problems.append(
            f"right after waking, {closest.odd[1]} of the engine's and {closest.odd[0]} of the trainer's {closest.count} "
            "logprobs are not finite numbers"
        )
    elif not closest.mean > least:
        problems.append(
            f"after training and before the sync the two still agree ({closest.mean:.4f}): the training changed nothing, or this "
            "comparison cannot see stale weights"
        )
    if not all(ordered):
        problems.append(
            "right after training the engine would launch its collectives on another stream than its model runs on: with tensor "
            "parallelism they do not wait for what they reduce"
        )
    if not worst.mean <= DLOGP_BOUND:
        problems.append(
            "after the sync the engine still does not compute the trained model: the weights did not arrive"
        )
    return _gate(
        "4",
        problems,
        f"stale {closest.mean:.4f}, synced {worst.mean:.4f}",
        f"stale > {least:.4f}, synced <= {DLOGP_BOUND}",
        note=f"synced: {worst.nemo}",
    )


def prefix_cache(reference: float, changed: Sequence[Agreement], fresh: Sequence[Agreement]) -> Gate:
    """Gate 5: the same prompts, cached under the old weights, give the new weights' logprobs after a sync.

    Args:
        reference: gate 3's mean abs(dlogp).
        changed: per rank, the logprobs given before against what the new weights make of the same tokens.
        fresh: per rank, the logprobs given after, against the new weights.
    """
    least = changed_bound(reference)
    closest = min(changed, key=lambda each: each.mean if each.mean == each.mean else -1.0)
    worst = Agreement.worst(fresh)
    problems = []
    if not closest.mean > least:
        problems.append(
            f"the new weights hardly change these prompts' logprobs ({closest.mean:.4f}): a stale cache would not show"
        )
    if not worst.mean <= DLOGP_BOUND:
        problems.append(
            "prompts seen before the sync are answered from keys and values of the old weights: the prefix cache is stale"
        )
    return _gate(
        "5",
        problems,
        f"changed {closest.mean:.4f}, fresh {worst.mean:.4f}",
        f"changed > {least:.4f}, fresh <= {DLOGP_BOUND}",
        note=f"fresh: {worst.nemo}",
    )


def sleeping(ranks: Sequence[Mapping[str, Any]], per_process: bool, sharers: int, *, own: bool = False) -> Gate:
    """Gate 6: asleep the engine gives its memory back in every cycle, and gives the same answers after waking.

    Args:
        ranks: per rank baseline (GiB in use before the engine started), awake, asleep (a list, one per cycle), same and
            compared (greedy sequences that were the same after waking, summed over the cycles), wrong (names of engine parameters
            that are not, bit for bit, this rank's shard of the trainer's after the last waking) and shards (how many there are).
        per_process: the figures are per process; otherwise per device, taken while all ranks were in the same state.
        sharers: how many ranks are on a device. Figures per device are compared with that many times the bounds.
        own: the model is the user's own. The bounds of memory were measured for the tiny one, whose optimizer hardly counts: the
            figures are given without a verdict. Weights are compared with what the engine held before it slept.
    """
    engines = 1 if per_process else sharers
    residual = max(max(rank["asleep"]) - rank["baseline"] for rank in ranks) / engines
    growth = max(rank["asleep"][-1] - rank["asleep"][0] for rank in ranks) / engines
    awake = max(rank["awake"] - rank["baseline"] for rank in ranks) / engines
    same = sum(rank["same"] for rank in ranks)
    compared = sum(rank["compared"] for rank in ranks)
    problems = []
    if not own and not residual <= RESIDUAL_BOUND_GIB:
        problems.append(
            f"asleep the engine still holds {residual:.1f} of its {awake:.1f} GiB: the trainer will run out of memory"
        )
    if not own and not growth <= GROWTH_BOUND_GIB:
        problems.append(
            f"every sleep leaves more behind ({growth:.2f} GiB over the cycles): a long run will run out of memory"
        )
    if not compared or same != compared:
        problems.append(
            f"{compared - same} of {compared} greedy texts changed over sleep: the weights did not survive it"
        )
    no_longer = "what they were before the engine slept" if own else "the trainer's after waking"
    problems += [
        f"{len(rank['wrong'])} of {rank['shards']} parameters ({rank['wrong'][0]} ...) are no longer {no_longer}"
        for rank in ranks
        if rank["wrong"]
    ]
    shards = sum(rank["shards"] for rank in ranks)
    whole = shards - sum(len(rank["wrong"]) for rank in ranks)
    counted = "per process" if per_process else "per device" if sharers == 1 else f"per device, {sharers} ranks on it"
    return _gate(
        "6",
        problems,
        f"asleep {residual:.2f} of {awake:.1f} GiB, growth {growth:.2f}, same text {same}/{compared}, same bits {whole}/{shards}",
        f"memory: {NO_BOUND}; all" if own else f"<= {RESIDUAL_BOUND_GIB} GiB, growth <= {GROWTH_BOUND_GIB}, all",
        note=f"memory counted {counted}{', shown per rank' if engines > 1 else ''}",
    )


def batch(ranks: Sequence[Mapping[str, Any]]) -> Gate:
    """Gate 7: `n` sequences come back for every prompt, of the length asked for, and for most prompts they differ.

    A trained model can be so sure of a text that it is drawn twice: 1 prompt of 16 in one of 15 passes on an H100. An engine that
    draws all `n` with one seed repeats itself for every prompt.

    Args:
        ranks: per rank prompts, n, lengths (per prompt, the lengths of its sequences), asked (tokens), distinct (per prompt).
    """
    wanted = sum(rank["prompts"] * rank["n"] for rank in ranks)
    got = sum(len(lengths) for rank in ranks for lengths in rank["lengths"])
    short = sum(1 for rank in ranks for lengths in rank["lengths"] for length in lengths if length != rank["asked"])
    n = ranks[0]["n"]
    alike = sum(
        1
        for rank in ranks
        for lengths, kinds in zip(rank["lengths"], rank["distinct"], strict=True)
        if kinds < len(lengths)
    )
    missing = sum(1 for rank in ranks for lengths in rank["lengths"] if len(lengths) != n)
    missing += sum(abs(rank["prompts"] - len(rank["lengths"])) for rank in ranks)
    problems = []
    if got != wanted or missing:
        problems.append(
            f"{got} sequences came back, not {wanted}; {missing} prompts do not have {n}: advantages would be wrong"
        )
    if short:
        problems.append(f"{short} sequences do not have the length asked for")
    if 2 * alike > sum(rank["prompts"] for rank in ranks):
        problems.append(f"{alike} prompts got the same sequence more than once: sampling repeats itself")
    return _gate("7", problems, f"{got}/{wanted} sequences, {alike} prompts with repeats", f"{wanted}, at most half")


def training(ranks: Sequence[Mapping[str, Any]]) -> Gate:
    """Gate 8: loss and gradient norm are finite in every step, and the trainer's parameters moved.

    Args:
        ranks: per rank losses, grad_norms, moved (largest change of a parameter).
    """
    losses = [value for rank in ranks for value in rank["losses"]]
    norms = [value for rank in ranks for value in rank["grad_norms"]]
    bad = sum(1 for value in [*losses, *norms] if not math.isfinite(value))
    moved = min((rank["moved"] for rank in ranks), default=0.0)
    problems = []
    if bad or not losses:
        problems.append(f"{bad} of {len(losses) + len(norms)} losses and gradient norms are not finite numbers")
    if not (math.isfinite(moved) and moved > 0):
        problems.append("the optimizer's steps did not change the trainer's parameters")
    largest = max((value for value in norms if math.isfinite(value)), default=math.nan)
    return _gate("8", problems, f"{bad} not finite, grad norm <= {largest:.2f}, moved {moved:.1e}", "none, moved > 0")


def graphs(mode: str, ranks: Sequence[Mapping[str, Any]]) -> Gate:
    """Gate 9: decoding through CUDA graphs and the eager forward of the same engine give the same logprobs.

    In eager mode it checks that no graph is ever replayed; the comparison is made in the run with graphs.

    Args:
        mode: eager or graphs.
        ranks: per rank replayed (graph replays while decoding), eager_replayed (while forced eager), and in graphs mode
            agreement (an Agreement) and positions (how many could be compared at most).
    """
    if mode == "eager":
        replayed = max(rank["replayed"] for rank in ranks)
        problems = [f"enforce_eager=True, but {replayed} CUDA graphs were replayed"] if replayed else []
        return _gate(
            "9", problems, f"{replayed} replays", "0 replays", note="eager run: compared in the run with graphs"
        )
    replayed = min(rank["replayed"] for rank in ranks)
    forced = max(rank["eager_replayed"] for rank in ranks)
    worst = Agreement.worst([rank["agreement"] for rank in ranks])
    share = min(rank["agreement"].count / rank["positions"] for rank in ranks)
    problems = []
    if not replayed:
        problems.append("enforce_eager=False, but no CUDA graph was replayed: this engine runs eagerly")
    if forced:
        problems.append(f"{forced} graphs were replayed on the eager path: nothing was compared")
    if not worst.mean <= DLOGP_BOUND:
        problems.append("CUDA graphs and the eager forward give other logprobs: the graphs replay something else")
    if not share >= 0.5:
        problems.append(f"greedy decoding diverges at once: only {share:.0%} of the positions could be compared")
    return _gate(
        "9",
        problems,
        f"{worst.mean:.4f} over {share:.0%}, {replayed} replays, {forced} when eager",
        f"<= {DLOGP_BOUND}, replays > 0, none when eager",
    )


def two_engines(eager: Sequence[Mapping[str, Any]], graph: Sequence[Mapping[str, Any]]) -> Gate:
    """Gate 9 across two runs: the eager engine's and the graphs engine's greedy answers to the same prompts.

    Args:
        eager, graph: per prompt tokens and logprobs, with the same initial weights.
    """
    ours: list[float] = []
    theirs: list[float] = []
    positions = 0
    for one, other in zip(eager, graph, strict=True):
        positions += len(one["tokens"])
        for a, b, x, y in zip(one["tokens"], other["tokens"], one["logprobs"], other["logprobs"], strict=True):
            if a != b:  # a near tie was decided differently; from here on the texts cannot be compared
                break
            ours.append(x)
            theirs.append(y)
    agreement = Agreement.of(ours, theirs)
    share = agreement.count / positions if positions else 0.0
    problems = []
    if not agreement.mean <= DLOGP_BOUND or not share >= 0.5:
        problems.append("an engine with CUDA graphs and one without answer the same prompts differently")
    return _gate(
        "9",
        problems,
        f"{agreement.mean:.4f} over {share:.0%}",
        f"<= {DLOGP_BOUND}, >= 50%",
        note="two engines: eager, graphs",
    )


def layout(ranks: int, gpus: int, nodes: int = 1) -> str:
    """How many ranks are on how many GPUs, and of how many nodes if they are several, in words."""
    if ranks == 1:
        return "1 rank"
    on = "sharing" if ranks > gpus else "on"
    return f"{ranks} ranks {on} {gpus} GPU{'s' if gpus > 1 else ''}{f' of {nodes} nodes' if nodes > 1 else ''}"


def ranks_agree(ranks: Sequence[Mapping[str, Any]], tp: int, gpus: int, nodes: int = 1) -> Gate:
    """Gate 10: every rank is where it should be, holds its own shard, and says what its group must say.

    Args:
        ranks: in rank order, each with rank, local_rank, engine_rank, device and current_device (CUDA indices: where
            the weights are, and what the engine has left as the current device), tp_rank, tp_size, world, wrong (names
            of engine parameters that are not the trainer's shard for this rank), shards (how many were compared; None
            where it is not known how the model is cut), greedy and sampled (token ids, a tuple per prompt), prompts
            (indices of the global batch this rank answered).
        tp: tensor-parallel size; ranks r with the same r // tp are one replica.
        gpus: on how many GPUs they are. Ranks that share GPUs see one each, as local rank 0 of their own host.
        nodes: on how many nodes; each has the same number of ranks.
    """
    world = len(ranks)
    problems = []
    for place, rank in enumerate(ranks):
        local = place % (world // nodes) if world <= gpus else 0
        expected = {
            "rank": place,
            "local_rank": local,
            "engine_rank": place,
            "device": local,
            "current_device": local,
            "tp_rank": place % tp,
            "tp_size": tp,
            "world": world,
        }
        problems += [
            f"rank {place} has {key} {rank[key]}, not {want}" for key, want in expected.items() if rank[key] != want
        ]
        if rank["wrong"]:
            names = ", ".join(rank["wrong"][:2])
            wrong = f"{len(rank['wrong'])} of {rank['shards']} parameters ({names} ...)"
            problems.append(f"rank {place} holds other weights than its shard in {wrong}")
    problems += _replicas_disagree([ranks[start : start + tp] for start in range(0, world, tp)])
    misplaced = sum(len(rank["wrong"]) for rank in ranks)
    unknown = any(rank["shards"] is None for rank in ranks)
    weights = "weights not compared" if unknown else f"{misplaced}/{sum(rank['shards'] for rank in ranks)} shards wrong"
    seen = "placement" if unknown else "placement and weights"
    note = "" if world > 1 else f"one rank: {seen}; the rest needs --ranks 2"
    return _gate(
        "10",
        problems,
        f"{layout(world, gpus, nodes)}, TP={tp} DP={world // tp}, {weights}",
        f"each at its place, {'' if unknown else '0 wrong, '}replicas agree",
        note=note,
    )


def _replicas_disagree(replicas: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """What is wrong within a replica, whose ranks must say the same, and between replicas. Ranks are as in `ranks_agree`."""
    problems = []
    for number, replica in enumerate(replicas):
        for other in replica[1:]:
            if other["sampled"] != replica[0]["sampled"] or other["greedy"] != replica[0]["greedy"]:
                problems.append(
                    f"the ranks of replica {number} generate different tokens: tensor parallel ranks are out of step"
                )
            if other["prompts"] != replica[0]["prompts"]:
                problems.append(f"the ranks of replica {number} answer different prompts")
    for number, replica in enumerate(replicas[1:], start=1):
        if replica[0]["greedy"] != replicas[0][0]["greedy"]:
            problems.append(f"replicas 0 and {number} give different greedy answers to the same prompts")
        if replica[0]["sampled"] == replicas[0][0]["sampled"]:
            problems.append(f"replicas 0 and {number} draw the same samples: their seeds are the same")
    answered = sorted(index for replica in replicas for index in replica[0]["prompts"])
    if answered != list(range(len(answered))):
        problems.append("the replicas' shares do not add up to the batch: prompts are missing or answered twice")
    return problems


def sampler(replicas: Sequence[Mapping[str, float]]) -> Gate:
    """Gate 11: what was drawn comes from the distribution that the trainer computes.

    With p the trainer's distribution at a position, x the token drawn there and H the entropy of p, log p(x) + H has mean 0 and
    the variance of log p if x was drawn from p. Another temperature moves that sum. top_p cuts off the tail, which the second
    statistic measures: it counts tokens outside p's own top-0.95 set.

    Args:
        replicas: per replica, sums over its tokens: tokens, score (log p + H), variance, outside, expected and spread (mean and
            variance of outside).
    """
    total = {key: sum(replica[key] for replica in replicas) for key in replicas[0]}
    score = total["score"] / math.sqrt(total["variance"]) if total["variance"] > 0 else math.nan
    tail = (total["outside"] - total["expected"]) / math.sqrt(total["spread"]) if total["spread"] > 0 else math.nan
    problems = []
    if not abs(score) <= SAMPLER_BOUND:
        problems.append(
            f"the tokens are {'more' if score > 0 else 'less'} likely than draws from the trainer's distribution: "
            "the temperature is wrong, or unlikely tokens are cut off"
        )
    if not abs(tail) <= SAMPLER_BOUND:
        problems.append(
            f"{total['outside']:.0f} tokens are outside the trainer's top-0.95 sets, {total['expected']:.0f} are expected: "
            "the tail of the distribution is not sampled as it should be"
        )
    value = f"z {score:.1f}, tail z {tail:.1f}, {total['tokens']:.0f} tokens"
    return _gate("11", problems, value, f"both within {SAMPLER_BOUND}")


@dataclass(frozen=True)
class Repeat:
    """How much two answers to the same prompts with the same seed are the same.

    Attributes:
        same: sequences with the same tokens.
        count: of how many.
        apart: the largest difference of a logprob, in nats, among tokens before the sequences diverge.
    """

    same: int
    count: int
    apart: float

    @classmethod
    def of(cls, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> Repeat:
        """Compare two lists of sequences, each with tokens and logprobs."""
        same = 0
        apart = [0.0]
        for a, b in zip(one, other, strict=True):
            same += list(a["tokens"]) == list(b["tokens"])
            for x, y, p, q in zip(a["tokens"], b["tokens"], a["logprobs"], b["logprobs"], strict=True):
                if x != y:
                    break
                apart.append(abs(p - q))
        # max() may ignore a NaN
        furthest = max(apart) if all(map(math.isfinite, apart)) else math.nan
        return cls(same, len(one), furthest)

    @property
    def equal(self) -> bool:
        """Every token and every bit of every logprob?"""
        return self.count > 0 and self.same == self.count and self.apart == 0.0

    def __str__(self) -> str:
        how = "equal bit for bit" if self.apart == 0.0 else f"up to {self.apart:.1e} apart"
        where = "" if self.same == self.count else " before the texts diverge"
        return f"{self.same}/{self.count} sequences, logprobs{where} {how}"


def same_seed(ranks: Sequence[Repeat]) -> Gate:
    """Gate 12: the same prompts and the same seed, twice in one process, give the same tokens and logprobs, bit for bit."""
    problems = [f"rank {place}: {each}" for place, each in enumerate(ranks) if not each.equal]
    if problems:
        problems.insert(0, "the same seed gives different answers the second time: no run can be repeated")
    return _gate("12", problems, str(next((each for each in ranks if not each.equal), ranks[0])), "all, bit for bit")


def engine_did_not_start(error: str, world: int) -> Gate:
    """The engine could not be built: gate 1 with one rank, gate 10 where several ranks had to come together."""
    if world > 1:
        return Gate(
            "10",
            FAIL,
            f"no engine on {world} ranks",
            "an engine on every rank",
            f"vLLM does not start on {world} ranks: {error}",
        )
    return Gate("1", FAIL, "no engine", "an engine", f"vLLM does not start: {error}")


def not_reached(ident: str) -> Gate:
    """A gate that was not measured because the run ended before it."""
    return Gate(ident, SKIP, "not reached", "", note="the run ended before this gate")


def watchdog(longest: float, phase: str, limit: float, hung: bool) -> Gate:
    """Every phase of every rank ended within its limit, in seconds; `longest` is the one nearest to it."""
    problems = [f"nothing moved for {longest:.0f} s in {phase!r}: every rank's stack is in the report"] if hung else []
    return _gate("watchdog", problems, f"{longest:.0f} s in {phase}", f"<= {limit:.0f} s")


def grpo(result: Mapping[str, Any]) -> Gate:
    """verl's own steps: they finished, their metrics are finite, the weights changed, and every rollout used the newest ones.

    Args:
        result: code (the exit code of verl.trainer.main_ppo), metrics (of the last step, verl's names), standin (flash-attn was
            replaced by a stand-in with sdpa), and steps as `hook` or `server_hook` writes them. Each is a dictionary with
            `synced`, the step's rollout against the actor, and from the second on either `stale`, the last step's rollout
            against the actor as it is now (an Agreement each, as a dictionary), or `changed`, the share of the weights that
            are new.
    """
    metrics, steps = result["metrics"], result["steps"]
    needed = ("timing_s/step", "timing_s/gen", "timing_s/update_actor")
    problems = []
    if result["code"]:
        problems.append(f"verl.trainer.main_ppo ended with exit code {result['code']}")
    if not metrics:
        problems.append("verl reported no step")
    else:
        problems += [f"verl's metrics have no {name}" for name in needed if name not in metrics]
    if odd := [name for name, value in metrics.items() if not math.isfinite(value)]:
        problems.append(f"{', '.join(odd[:3])} {'is' if len(odd) == 1 else 'are'} not finite")
    problems += [f"the hook in verl's worker failed: {step['error']}" for step in steps if "error" in step]
    seen = [step for step in steps if "error" not in step]
    synced = [Agreement(**step["synced"]) for step in seen]
    stale = [Agreement(**step["stale"]) for step in seen if "stale" in step]
    worst = Agreement.worst(synced) if synced else Agreement.of([], [])
    changed = [step["changed"] for step in seen if "changed" in step]
    if changed:
        what, moved, least = "changed", max(changed), CHANGED_LEAST
    else:
        what, moved = "stale", max((each.mean for each in stale if math.isfinite(each.mean)), default=math.nan)
        least = changed_bound(synced[0].mean if synced else math.nan)
    if len(seen) < 2:
        problems.append(f"{len(seen)} steps were seen: it takes two to see whether verl's sync carries new weights")
    else:
        if not worst.mean <= DLOGP_BOUND:
            problems.append(
                "verl's rollout and its actor have different logprobs: its sync did not carry the new weights over"
            )
        if not moved > least:
            problems.append(f"no step changed the actor by much ({moved:.4f}): a missing sync would not show")
    step, gen, update = (metrics.get(name, math.nan) for name in needed)
    value = (
        f"{what} {moved:.4f}, synced {worst.mean:.4f}, step {step:.2f} s, generation {gen:.2f} s, update {update:.2f} s"
    )
    bound = f"exit code 0, metrics finite, {what} > {least:.4f}, synced <= {DLOGP_BOUND}"
    standin = "; flash-attn is not installed: run with an sdpa stand-in" if result["standin"] else ""
    return _gate("verl", problems, value, bound, note=worst.nemo + standin)

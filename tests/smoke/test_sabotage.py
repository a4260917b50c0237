"""Every sabotage turns exactly its gate red, on an engine and a trainer that are a few lines of arithmetic.

A weight is one number; the engine's logprob of a token depends on the weight under which the prompt's keys and values were
computed as much as on the present one, so that stale weights and a stale prefix cache show, and differ.
"""

import contextlib

import pytest

from verlock.smoke import facts, gates, sabotage
from verlock.smoke.gates import FAIL, PASS
from verlock.smoke.rollout import GREEDY, Generated
from verlock.smoke.suite import Setting, Sizes, Suite
from verlock.smoke.trainer import Step

SIZES = Sizes(prompts=4, length=16, new=8, cached_prompts=2, cached_length=32, cached_new=4)


def logprob(weight, cached, token):
    return -1.0 - 0.3 * weight - 0.2 * cached - (token % 7) / 100


class Weight:
    """A weight with two halves, as tensor parallelism would cut it."""

    def __init__(self, value, swapped=False):
        self.value, self.swapped, self.shape = value, swapped, (2,)

    def roll(self, shift, dims):
        return Weight(self.value, not self.swapped)


class Engine:
    kind, tokenizer, vocabulary = "V0", 4096, 4096

    graphs_are_wrong = sleep_corrupts = repeats = other_stream = forgets = stale = sharpens = loses_bits = False
    leaks = 0.0

    def __init__(self, **wrong):
        self.weight, self.cache, self.asleep, self.graphs, self.replayed = Weight(0.0), {}, False, True, 0
        self.cycles = self.drawn = 0
        self.__dict__.update(wrong)

    def generate(self, prompts, request):
        assert not self.asleep
        self.how = request.how
        self.drawn += 1
        seed = 0 if request.how == GREEDY or self.repeats else request.seed + (self.drawn if self.forgets else 0)
        return [
            [
                self._one(prompt, request.new, seed + 1000 * k * (not self.repeats), request.top)
                for k in range(request.n)
            ]
            for prompt in prompts
        ]

    def _one(self, prompt, new, seed, top):
        cached = self.cache.setdefault(prompt, self.weight.value)
        tokens = tuple(
            (sum(prompt) + 31 * seed + 13 * i + int(self.cycles if self.sleep_corrupts else 0)) % 4096
            for i in range(new)
        )
        self.replayed += self.graphs
        wrong = 0.5 if self.graphs and (self.graphs_are_wrong or self.stale) else 0.0
        values = tuple(logprob(self.weight.value, cached, token) + wrong for token in tokens)
        likely = tuple({token: value} for token, value in zip(tokens, values, strict=True)) if top else ()
        return Generated(prompt, tokens, values, likely)

    def load(self, weights):
        self.weight = dict(weights)["lm_head.weight"]

    def reset_prefix_cache(self):
        self.cache.clear()

    def sleep(self):
        self.asleep = True
        self.cycles += 1
        self.cache.clear()

    def wake(self):
        self.asleep = False
        if self.loses_bits:
            self.weight = Weight(self.weight.value + 1e-6)

    def ordered(self):
        return not self.other_stream

    def memory(self, per_process):
        return 1.5 + self.leaks * self.cycles if self.asleep else 25.0

    def placement(self):
        return {"engine_rank": 0, "device": 0, "current_device": 0, "tp_rank": 0, "tp_size": 1}

    def replays(self):
        return self.replayed

    @contextlib.contextmanager
    def stale_graphs(self):
        self.stale = True
        yield
        self.stale = False

    @contextlib.contextmanager
    def eager(self):
        self.graphs = False
        yield
        self.graphs = True


class Trainer:
    def __init__(self, frozen=False):
        self.weight, self.frozen, self.off = 0.0, frozen, 0

    def reset(self):
        self.weight = 0.0

    def logprobs(self, sequences):
        return [logprob(self.weight, self.weight, token) + 0.001 for each in sequences for token in each.tokens]

    def top(self, sequences, k):
        return [[[token + self.off] for token in each.tokens] for each in sequences]

    @contextlib.contextmanager
    def one_layer_off(self):
        self.off = 1
        yield
        self.off = 0

    def draws(self, sequences):
        """What 1,000 tokens drawn as the engine was told would give."""
        how = self.engine.how
        sharp = how.temperature < 1 or self.engine.sharpens
        sums = {"tokens": 1000, "score": 300.0 if sharp else 10.0, "variance": 1000.0, "expected": 50.0, "spread": 47.5}
        return {**sums, "outside": 0.0 if how.top_p < 1 else 52.0}

    def train(self, sequences, steps, poisoned=None):
        history = []
        for step in range(steps):
            bad = step == poisoned
            self.weight += 0.0 if bad or self.frozen else 0.3
            history.append(Step(float("nan") if bad else 0.1, float("nan") if bad else 1.0, not bad))
        return history

    def moved(self):
        return abs(self.weight)

    def weights(self):
        return {"lm_head.weight": Weight(self.weight)}


class World:
    rank = local_rank = 0
    size = tp = gpus = nodes = 1

    def gather(self, mine):
        return [mine]

    def barrier(self):
        pass


class FakeSuite(Suite):
    def _wrong_shards(self, weights):
        wrong = self.engine.weight.swapped or self.engine.weight.value != weights["lm_head.weight"].value
        return (["lm_head.weight"] if wrong else []), 1


def suite(engine=None, trainer=None):
    @contextlib.contextmanager
    def phase(name):
        yield

    engine, trainer = engine or Engine(), trainer or Trainer()
    trainer.engine = engine
    return FakeSuite(engine, trainer, World(), Setting("graphs", 1.0, False, SIZES), phase)


def red(found):
    return [gate.id for gate in found if gate.verdict == FAIL]


def test_a_sound_run_is_green():
    found = list(suite().run())
    assert {gate.id for gate in found} == {str(number) for number in range(2, 13)}
    assert len(found) == 11
    assert all(gate.verdict == PASS for gate in found), [gate for gate in found if gate.verdict != PASS]


# gate 1 is measured in __main__ (tests/e2e/test_rehearsal.py has it), verl's steps are a launch of their own
MODES = [mode for mode, entry in sabotage.MODES.items() if entry.gate != "1" and mode != "hang" and not entry.verl]


@pytest.mark.parametrize("mode", MODES)
def test_every_sabotage_turns_exactly_its_gate_red(mode):
    found = list(suite().run(mode))
    assert red(found) == [sabotage.MODES[mode].gate]
    assert sabotage.verdict(mode, found) == ""


def test_one_process_goes_through_all_modes():
    """What `--sabotage all` relies on: after a restart nothing of the last sabotage is left."""
    one = suite()
    for mode in ["", *MODES, ""]:
        one.restart()
        assert red(one.run(mode)) == ([sabotage.MODES[mode].gate] if mode else [])


@pytest.mark.parametrize(
    ("engine", "gate"),
    [
        ({"graphs_are_wrong": True}, "9"),
        ({"sleep_corrupts": True}, "6"),
        ({"leaks": 0.2}, "6"),
        ({"tokenizer": 100}, "2"),
        ({"repeats": True}, "7"),
        ({"other_stream": True}, "4"),
        ({"loses_bits": True}, "6"),
        ({"forgets": True}, "12"),
        ({"sharpens": True}, "11"),
    ],
)
def test_failures_that_no_sabotage_makes_are_seen_as_well(engine, gate):
    assert gate in red(suite(Engine(**engine)).run())


def test_a_trainer_that_does_not_learn_is_seen():
    assert {"4", "5", "8"} <= set(red(suite(trainer=Trainer(frozen=True)).run()))


def test_the_verdict_on_a_sabotage_names_what_is_red_instead():
    green = gates.batch([{"prompts": 1, "n": 4, "asked": 1, "lengths": [[1] * 4], "distinct": [4]}])
    assert "red: none" in sabotage.verdict("drop-sequence", [green])
    other = gates.not_reached("3")
    assert "must turn gate 7 red" in sabotage.verdict("drop-sequence", [other])


def test_every_gate_has_a_sabotage():
    assert {entry.gate for entry in sabotage.MODES.values()} == set(gates.NAMES)


def test_a_process_breaks_what_its_mode_has_and_hangs_last():
    graphs = sabotage.passes("all", "graphs")
    assert graphs[0] == ""
    assert set(sabotage.MODES) - set(graphs) == {"hang", "verl-skip-sync"}
    assert set(graphs) - set(sabotage.passes("all", "eager")) == {"stale-graph"}
    assert sabotage.passes("skip-sync", "eager") == ["skip-sync"]


def test_the_metadata_of_another_version_turn_gate_1_red(tmp_path):
    expected = {"engine": "V0", "versions": facts.versions(["packaging"])}
    assert len(expected["versions"]) == 1

    def gate():
        found = {"imports": {}, "engine": "V0", "driver": "1", "cuda": "12", "cxx11abi": False}
        return gates.environment({**found, "versions": facts.versions(["packaging"])}, expected)

    with sabotage.other_version("packaging", tmp_path):
        assert "packaging is 0, the lock says" in gate().sentence
    assert gate().verdict == PASS

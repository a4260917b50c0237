"""Every sabotage turns exactly its gate red, on an engine and a trainer that are a few lines of arithmetic.

A weight is one number; the engine's logprob of a token depends on the weight under which the prompt's keys and values were
computed as much as on the present one, so that stale weights and a stale prefix cache show, and differ.
"""

import contextlib

import pytest

from verlock.smoke import gates, sabotage
from verlock.smoke.gates import FAIL, PASS
from verlock.smoke.rollout import Generated
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

    def __init__(
        self, graphs_are_wrong=False, sleep_corrupts=False, leaks=0.0, tokenizer=4096, repeats=False, other_stream=False
    ):
        self.weight, self.cache, self.asleep, self.graphs, self.replayed = Weight(0.0), {}, False, True, 0
        self.graphs_are_wrong, self.sleep_corrupts, self.leaks = graphs_are_wrong, sleep_corrupts, leaks
        self.tokenizer, self.repeats, self.cycles, self.other_stream = tokenizer, repeats, 0, other_stream

    def generate(self, prompts, *, new, n=1, greedy=False, top=0, seed=0):
        assert not self.asleep
        return [
            [self._one(prompt, new, 0 if greedy or self.repeats else seed + 1000 * k, top) for k in range(n)]
            for prompt in prompts
        ]

    def _one(self, prompt, new, seed, top):
        cached = self.cache.setdefault(prompt, self.weight.value)
        tokens = tuple(
            (sum(prompt) + 31 * seed + 13 * i + int(self.cycles if self.sleep_corrupts else 0)) % 4096
            for i in range(new)
        )
        self.replayed += self.graphs
        wrong = 0.5 if self.graphs and self.graphs_are_wrong else 0.0
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

    def ordered(self):
        return not self.other_stream

    def memory(self, per_process):
        return 1.5 + self.leaks * self.cycles if self.asleep else 25.0

    def placement(self):
        return {"engine_rank": 0, "device": 0, "current_device": 0, "tp_rank": 0, "tp_size": 1}

    def replays(self):
        return self.replayed

    @contextlib.contextmanager
    def eager(self):
        self.graphs = False
        yield
        self.graphs = True


class Trainer:
    def __init__(self, frozen=False):
        self.weight, self.frozen = 0.0, frozen

    def reset(self):
        self.weight = 0.0

    def logprobs(self, sequences):
        return [logprob(self.weight, self.weight, token) + 0.001 for each in sequences for token in each.tokens]

    def top(self, sequences, k):
        return [[[token] for token in each.tokens] for each in sequences]

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
    size = tp = gpus = 1

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

    return FakeSuite(engine or Engine(), trainer or Trainer(), World(), Setting("graphs", 1.0, False, SIZES), phase)


def red(found):
    return [gate.id for gate in found if gate.verdict == FAIL]


def test_a_sound_run_is_green():
    found = list(suite().run())
    assert [gate.id for gate in found] == [str(number) for number in range(2, 11)]
    assert all(gate.verdict == PASS for gate in found), [gate for gate in found if gate.verdict != PASS]


@pytest.mark.parametrize("mode", [mode for mode in sabotage.MODES if mode != "hang"])
def test_every_sabotage_turns_exactly_its_gate_red(mode):
    found = list(suite().run(mode))
    assert red(found) == [sabotage.MODES[mode].gate]
    assert sabotage.verdict(mode, found) == ""


def test_one_process_goes_through_all_modes():
    """What `--sabotage all` relies on: after a restart nothing of the last sabotage is left."""
    one = suite()
    for mode in ["", *(mode for mode in sabotage.MODES if mode != "hang"), ""]:
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


def test_the_table_of_modes_is_the_issue_s():
    assert {mode: entry.gate for mode, entry in sabotage.MODES.items()} == {
        "skip-sync": "4",
        "stale-cache": "5",
        "wrong-rank": "10",
        "no-sleep": "6",
        "noisy-logprobs": "3",
        "drop-sequence": "7",
        "nan-loss": "8",
        "hang": "watchdog",
    }
    assert list(sabotage.MODES)[-1] == "hang"

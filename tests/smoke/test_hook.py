"""The hook in verl's worker, on a worker of a few lines: verl's own sync seen, and a broken one seen to be broken."""

import functools
from types import SimpleNamespace

import pytest

from verlock.smoke import gates, hook

TIMES = {"timing_s/step": 2.0, "timing_s/gen": 1.6, "timing_s/update_actor": 0.2}


class Rows(list):
    """As much of a tensor of two dimensions as the hook uses."""

    @property
    def shape(self):
        return len(self), len(self[0])

    def __getitem__(self, at):
        return Rows(row[at[1]] for row in self) if isinstance(at, tuple) else super().__getitem__(at)

    def sum(self, dim):
        return Rows(sum(row) for row in self)

    def tolist(self):
        return [list(row) if isinstance(row, (list, tuple)) else row for row in self]


class Model:
    weight = 0.0

    def load_weights(self, weights):
        self.weight = dict(weights)["w"]
        return {"w"}


def logprob(weight, token):
    return -1.0 - 0.5 * weight - token / 100


class Engine:
    def __init__(self):
        self.model, self.calls = Model(), 0
        worker = SimpleNamespace(worker=SimpleNamespace(model_runner=SimpleNamespace(model=self.model)))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))

    def generate(self, prompts, sampling_params=None, use_tqdm=True):
        self.calls += 1
        answers = []
        for prompt in prompts:
            tokens = [(prompt + 7 * place + self.calls) % 50 for place in range(3 + prompt % 2)]
            logprobs = [{t: SimpleNamespace(logprob=logprob(self.model.weight, t))} for t in tokens]
            answers.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens, logprobs=logprobs)]))
        return answers


def registered(method):
    @functools.wraps(method)
    def inner(self, *arguments):
        return method(self, *arguments)

    inner.magic = {"dispatch_mode": 1}
    return inner


def worker_class():
    """Like verl's ActorRolloutRefWorker: the sync is inside generate_sequences, and a batch comes back in another order."""

    class Worker:
        rank = 0

        def __init__(self):
            self.actor = 0.0
            self.rollout = SimpleNamespace(inference_engine=Engine())

        @registered
        def generate_sequences(self, prompts):
            engine = self.rollout.inference_engine
            assert len(engine.model.load_weights([("w", self.actor)])) >= 0
            answers = [answer.outputs[0].token_ids for answer in engine.generate(prompts=prompts, use_tqdm=False)]
            width = max(map(len, answers))
            rows = [[*ids, *[0] * (width - len(ids))] for ids in reversed(answers)]
            masks = [[1, 1, *[1] * len(ids), *[0] * (width - len(ids))] for ids in reversed(answers)]
            return SimpleNamespace(batch={"responses": Rows(rows), "attention_mask": Rows(masks)})

        @registered
        def compute_log_prob(self, data):
            rows = [[logprob(self.actor, token) + 0.001 for token in row] for row in data.batch["responses"]]
            return SimpleNamespace(batch={"old_log_probs": Rows(rows)})

    return Worker


def train(folder, skip_sync=False, rates=(0.5, 0.5), worker=None):
    kind = worker or worker_class()
    hook.install(kind, str(folder), skip_sync)
    one = kind()
    for rate in rates:
        one.compute_log_prob(one.generate_sequences([3, 4, 10, 11]))
        one.actor += rate
    seen = hook.read(folder)
    return gates.grpo({"code": 0, "metrics": TIMES, "standin": False, "steps": seen}), seen


def test_verls_own_sync_is_seen(tmp_path):
    gate, seen = train(tmp_path)
    assert gate.verdict == gates.PASS, gate.sentence
    assert [line["step"] for line in seen] == [1, 2]
    assert seen[1]["synced"]["mean"] == pytest.approx(0.001)
    assert seen[1]["stale"]["mean"] == pytest.approx(0.249)
    assert seen[0]["synced"]["count"] == 14


def test_a_sync_that_is_skipped_turns_it_red(tmp_path):
    gate, seen = train(tmp_path, skip_sync=True)
    assert gate.verdict == gates.FAIL
    assert "did not carry the new weights over" in gate.sentence
    assert seen[0]["synced"]["mean"] == pytest.approx(0.001)  # the first sync is what fills the engine at all


@pytest.mark.parametrize(("skip_sync", "verdict"), [(False, gates.PASS), (True, gates.FAIL)])
def test_a_first_step_that_does_not_learn_hides_nothing(tmp_path, skip_sync, verdict):
    gate, seen = train(tmp_path, skip_sync, rates=(0.0, 0.5, 0.5))
    assert len(seen) == 3
    assert gate.verdict == verdict, gate.sentence


def test_the_dispatchers_mark_stays_on_the_methods(tmp_path):
    kind = worker_class()
    hook.install(kind, str(tmp_path), False)
    assert all(getattr(kind, name).magic == {"dispatch_mode": 1} for name in hook.METHODS)


def test_what_goes_wrong_in_the_hook_does_not_end_verl(tmp_path):
    kind = worker_class()
    sound = Engine.generate
    kind.compute_log_prob = registered(lambda self, data: SimpleNamespace(batch={}))
    gate, seen = train(tmp_path, worker=kind)
    assert Engine.generate is sound
    assert "KeyError" in seen[0]["error"]
    assert "the hook in verl's worker failed" in gate.sentence

"""The hook in a verl whose engine is a server: what is sent and how far a rollout is from its actor, seen and broken."""

import asyncio
import math

import pytest

from verlock.smoke import gates, server_hook

TIMES = {"timing_s/step": 2.0, "timing_s/gen": 1.6, "timing_s/update_actor": 0.2}


class Row(list):
    """As much of a tensor as the hook uses."""

    device = "cuda"
    shape = (1, 4)

    def detach(self):
        return self

    def to(self, device, copy=False):
        return Row(self)

    def __ne__(self, other):
        return Row(a is not None and a != b for a, b in zip(self, other, strict=True))

    def sum(self):
        return sum(self)

    def numel(self):
        return len(self)

    def bool(self):
        return self

    float = bool

    def tolist(self):
        return list(self)

    def __getitem__(self, at):
        if isinstance(at, tuple):
            return self
        return (
            Row(value for value, kept in zip(self, at, strict=True) if kept)
            if isinstance(at, list)
            else super().__getitem__(at)
        )


class Batch(dict):
    batch = property(lambda self: self)


def steps(folder, *, skip_sync, count=3, learns=True):
    """A trainer of one weight tensor and a server of it: the server's logprobs follow the weights it was sent."""
    server = []

    class ServerAdapter:
        async def update_weights(self, weights, global_steps=None):
            for _, tensor in weights:
                server[:] = tensor
            return "sent"

    server_hook.install_sender({"ServerAdapter": ServerAdapter}, str(folder), skip_sync)
    calculate = server_hook.measured(lambda data: {"valid": 1}, str(folder))
    adapter, actor = ServerAdapter(), [0.0, 0.0, 0.0, 0.0]
    for step in range(count):
        assert asyncio.run(adapter.update_weights(iter([("w", Row(actor))]), global_steps=step)) == "sent"
        logprobs = {"old_log_probs": Row(-1 - w for w in actor), "rollout_log_probs": Row(-1 - w for w in server)}
        batch = Batch(**logprobs, response_mask=Row([True, True, True, False]), responses=Row([1, 2, 3, 4]))
        assert calculate(batch) == {"valid": 1}
        if learns:
            actor = [actor[0], *(w + 0.4 for w in actor[1:])]
    return server_hook.read(folder)


def judged(seen, code=0):
    return gates.grpo({"code": code, "metrics": TIMES, "standin": False, "steps": seen})


def test_a_sync_that_works_is_green(tmp_path):
    seen = steps(tmp_path, skip_sync=False)
    assert [step.get("changed") for step in seen] == [None, 0.75, 0.75]
    assert [step["synced"]["count"] for step in seen] == [3, 3, 3]
    gate = judged(seen)
    assert gate.verdict == gates.PASS and "changed 0.7500, synced 0.0000" in gate.value


def test_a_sync_that_sends_the_first_weights_again_is_red(tmp_path):
    gate = judged(steps(tmp_path, skip_sync=True))
    assert gate.verdict == gates.FAIL and "did not carry the new weights over" in gate.sentence


def test_weights_that_do_not_change_are_red(tmp_path):
    gate = judged(steps(tmp_path, skip_sync=False, learns=False))
    assert gate.verdict == gates.FAIL and "a missing sync would not show" in gate.sentence


def test_a_batch_without_the_engine_s_logprobs_is_written_down_and_verl_goes_on(tmp_path):
    calculate = server_hook.measured(lambda data: {"valid": 1}, str(tmp_path))
    assert calculate(Batch(responses=Row([1]), response_mask=Row([True]), old_log_probs=Row([0.0]))) == {"valid": 1}
    assert "KeyError" in server_hook.read(tmp_path)[0]["error"]
    assert "the hook in verl's worker failed" in judged(server_hook.read(tmp_path)).sentence


def test_a_module_of_another_form_is_an_error(tmp_path):
    with pytest.raises(StopIteration):
        server_hook.install_sender({}, str(tmp_path), False)


def test_nothing_seen_is_nothing_read(tmp_path):
    assert server_hook.read(tmp_path) == []
    assert math.isnan(gates.Agreement.of([], []).mean)

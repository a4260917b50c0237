"""The gates on numbers: each passes on what a sound run measures, and fails on each thing it is there for."""

import math

import pytest

from verlock.smoke import gates
from verlock.smoke.gates import FAIL, PASS, Agreement

NEAR = Agreement(0.0016, 1.0016, 100)
FAR = Agreement(0.468, 1.7, 100)
NAN = Agreement(math.nan, math.nan, 100)


def agreement(mean):
    return Agreement(mean, math.exp(mean), 100)


FACTS = {
    "engine": "V1",
    "driver": "580.159.04",
    "cuda": "12.4",
    "cxx11abi": False,
    "versions": {"vllm": "0.7.3", "torch": "2.5.1"},
    "imports": {"vllm": "", "vllm._C": ""},
}
EXPECTED = {
    "engine": "V1",
    "min_driver": "525.60.13",
    "cuda": "12.4",
    "cxx11abi": False,
    "versions": {"vllm": "0.7.3", "torch": "2.5.1"},
}


def test_the_environment_passes_as_locked():
    assert gates.environment(FACTS, EXPECTED).verdict == PASS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"engine": "V0"}, "the live engine is V0, the recipe says V1"),
        ({"driver": "470.223.02"}, "the driver is 470.223.02"),
        ({"cuda": "12.6"}, "torch was built for CUDA 12.6"),
        ({"cxx11abi": True}, "cxx11abi=True"),
        ({"versions": {"vllm": "0.7.2", "torch": "2.5.1"}}, "vllm is 0.7.2, the lock says 0.7.3"),
        ({"versions": {"vllm": "0.7.3"}}, "torch is missing"),
        ({"imports": {"vllm._C": "ImportError: undefined symbol: _ZN3c10"}}, "undefined symbol"),
    ],
)
def test_the_environment_fails_by_name(change, says):
    gate = gates.environment({**FACTS, **change}, EXPECTED)
    assert gate.verdict == FAIL
    assert says in gate.sentence


def test_a_driver_is_compared_by_number_not_by_text():
    assert gates.environment({**FACTS, "driver": "1000.1"}, EXPECTED).verdict == PASS


def greedy(**change):
    return gates.greedy([{"positions": 512, "mutual": 512, "largest_id": 4095, "tokenizer": 4096, **change}])


def test_greedy():
    assert greedy().verdict == PASS
    assert "do not compute the same model" in greedy(mutual=511).sentence
    assert "beyond the tokenizer" in greedy(largest_id=4096).sentence
    assert greedy(positions=0, mutual=0).verdict == FAIL


@pytest.mark.parametrize(
    ("agreed", "verdict"), [(NEAR, PASS), (agreement(0.02), PASS), (agreement(0.021), FAIL), (FAR, FAIL), (NAN, FAIL)]
)
def test_before_training(agreed, verdict):
    assert gates.before_training([agreed]).verdict == verdict


def test_a_few_wild_logprobs_fail_by_their_exponential_alone():
    assert gates.before_training([Agreement(0.01, 1.06, 100)]).verdict == FAIL


def test_the_worst_rank_decides():
    assert gates.before_training([NEAR, FAR]).verdict == FAIL
    assert gates.before_training([NEAR, NAN]).verdict == FAIL
    assert gates.sync(0.0016, [FAR, FAR], [NEAR, FAR], [True]).verdict == FAIL
    assert gates.sync(0.0016, [FAR, NEAR], [NEAR, NEAR], [True]).verdict == FAIL


def test_sync_needs_both_directions():
    assert gates.sync(0.0016, [FAR], [NEAR], [True]).verdict == PASS
    assert "on another stream" in gates.sync(0.0016, [FAR], [NEAR], [True, False]).sentence
    assert "did not arrive" in gates.sync(0.0016, [FAR], [FAR], [True]).sentence
    assert "the training changed nothing" in gates.sync(0.0016, [NEAR], [NEAR], [True]).sentence
    assert gates.sync(0.0016, [NAN], [NEAR], [True]).verdict == FAIL
    assert gates.sync(0.0016, [FAR], [NAN], [True]).verdict == FAIL


def test_sync_says_whose_logprobs_are_not_numbers():
    broken = Agreement.of([-1.0, -2.0, -3.0], [-1.0, math.nan, math.nan])
    assert broken.odd == (0, 2)
    assert (
        "2 of the engine's and 0 of the trainer's 3 logprobs"
        in gates.sync(0.0016, [FAR, broken], [NEAR], [True]).sentence
    )


def test_a_bad_gate_3_does_not_raise_gate_4s_bar_beyond_reach():
    assert gates.changed_bound(0.09) == pytest.approx(0.2)
    assert gates.changed_bound(math.nan) == pytest.approx(0.2)
    assert gates.changed_bound(0.0016) == pytest.approx(0.016)


def test_prefix_cache():
    assert gates.prefix_cache(0.0016, [FAR], [NEAR]).verdict == PASS
    assert "stale" in gates.prefix_cache(0.0016, [FAR], [agreement(0.1)]).sentence
    assert "would not show" in gates.prefix_cache(0.0016, [NEAR], [NEAR]).sentence


def sleeping(per_process=False, sharers=1, own=False, **change):
    return gates.sleeping(
        [
            {
                "baseline": 1.0,
                "awake": 25.4,
                "asleep": [1.8, 1.8, 1.8],
                "same": 24,
                "compared": 24,
                "wrong": [],
                "shards": 31,
                **change,
            }
        ],
        per_process=per_process,
        sharers=sharers,
        own=own,
    )


def test_sleeping():
    assert sleeping().verdict == PASS
    assert "still holds 24.4" in sleeping(asleep=[25.4] * 3).sentence
    assert "leaves more behind" in sleeping(asleep=[1.8, 2.0, 2.2]).sentence
    assert "did not survive" in sleeping(same=23).sentence
    assert sleeping(same=0, compared=0).verdict == FAIL
    assert "1 of 31 parameters (lm_head.weight ...)" in sleeping(wrong=["lm_head.weight"]).sentence


def test_a_device_that_two_ranks_share_is_held_against_both():
    two = {"asleep": [5.0, 5.1, 5.2]}
    assert sleeping(**two).verdict == FAIL
    assert sleeping(sharers=2, **two).verdict == PASS
    assert "2 ranks on it" in sleeping(sharers=2, **two).note
    assert sleeping(sharers=2, asleep=[7.5] * 3).verdict == FAIL
    assert sleeping(sharers=2, asleep=[3.0, 3.3, 3.6]).verdict == FAIL
    # a process's own figures have nothing of the other rank
    assert sleeping(per_process=True, sharers=2, **two).verdict == FAIL
    assert "per process" in sleeping(per_process=True, sharers=2).note


def test_the_memory_of_a_users_own_model_is_told_without_a_verdict():
    gate = sleeping(own=True, asleep=[25.4, 26.0, 27.0])
    assert (gate.verdict, gate.bound) == (PASS, "memory: reported, no bound; all")
    assert "asleep 26.00 of 24.4 GiB, growth 1.60" in gate.value
    assert "did not survive" in sleeping(own=True, same=23).sentence
    assert "no longer what they were before the engine slept" in sleeping(own=True, wrong=["wte.weight"]).sentence


def batch(**change):
    return gates.batch([{"prompts": 2, "n": 4, "asked": 8, "lengths": [[8] * 4] * 2, "distinct": [4, 4], **change}])


def test_batch():
    assert batch().verdict == PASS
    assert "7 sequences came back, not 8" in batch(lengths=[[8] * 4, [8] * 3], distinct=[4, 3]).sentence
    assert "length" in batch(lengths=[[8] * 4, [8, 8, 8, 7]]).sentence
    assert "repeats" in batch(distinct=[3, 3]).sentence
    assert batch(distinct=[4, 3]).verdict == PASS
    assert batch(lengths=[[8] * 4], distinct=[4]).verdict == FAIL
    # n ignored: as many sequences as asked for in sum would be 8, and it is 2
    assert batch(lengths=[[8], [8]], distinct=[1, 1]).verdict == FAIL
    # one prompt's loss made good by another's surplus is still wrong
    assert batch(lengths=[[8] * 5, [8] * 3], distinct=[5, 3]).verdict == FAIL


def training(**change):
    return gates.training([{"losses": [0.1, 0.2], "grad_norms": [1.0, 2.0], "moved": 3e-3, **change}])


def test_training():
    assert training().verdict == PASS
    assert training(losses=[0.1, math.nan]).verdict == FAIL
    assert training(grad_norms=[1.0, math.inf]).verdict == FAIL
    assert "did not change" in training(moved=0.0).sentence
    assert training(moved=math.nan).verdict == FAIL
    assert training(losses=[], grad_norms=[]).verdict == FAIL


def graphs(mode="graphs", **change):
    return gates.graphs(
        mode, [{"replayed": 30, "eager_replayed": 0, "agreement": agreement(0.002), "positions": 100, **change}]
    )


def test_graphs():
    assert graphs().verdict == PASS
    assert "runs eagerly" in graphs(replayed=0).sentence
    assert "nothing was compared" in graphs(eager_replayed=3).sentence
    assert "other logprobs" in graphs(agreement=FAR).sentence
    assert "diverges at once" in graphs(agreement=Agreement(0.001, 1.0, 40)).sentence
    assert graphs(agreement=Agreement.of([], [])).verdict == FAIL


def test_an_eager_run_must_not_replay_a_graph():
    assert graphs("eager", replayed=0).verdict == PASS
    assert graphs("eager", replayed=1).verdict == FAIL


def answers(tokens, logprobs):
    return [{"tokens": tokens, "logprobs": logprobs}]


def test_two_engines():
    assert gates.two_engines(answers([1, 2], [-1.0, -2.0]), answers([1, 2], [-1.001, -2.0])).verdict == PASS
    assert gates.two_engines(answers([1, 2], [-1.0, -2.0]), answers([1, 2], [-1.5, -2.0])).verdict == FAIL
    # after the texts part nothing is compared, and that too little is left is a failure of its own
    parted = gates.two_engines(answers([1, 2, 3, 4], [-1.0] * 4), answers([1, 9, 3, 4], [-1.0] * 4))
    assert parted.verdict == FAIL
    assert "25%" in parted.value


def rank(number, world=1, tp=1, **change):
    replica = number // tp
    return {
        "rank": number,
        "local_rank": number,
        "engine_rank": number,
        "device": number,
        "current_device": number,
        "tp_rank": number % tp,
        "tp_size": tp,
        "world": world,
        "wrong": [],
        "shards": 31,
        "greedy": ((5, 6),),
        "sampled": ((replica,),),
        "prompts": list(range(replica, 8, world // tp)),
        **change,
    }


@pytest.mark.parametrize(("world", "tp"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_ranks_pass_in_every_layout(world, tp):
    assert gates.ranks_agree([rank(each, world, tp) for each in range(world)], tp, world).verdict == PASS


def test_ranks_with_a_users_own_model_are_held_to_their_places_without_its_weights():
    ranks = [rank(each, 2, 2, shards=None) for each in range(2)]
    gate = gates.ranks_agree(ranks, 2, 2)
    assert (gate.verdict, gate.bound) == (PASS, "each at its place, replicas agree")
    assert gate.value.endswith("TP=2 DP=1, weights not compared")
    assert "rank 1 has device 0" in gates.ranks_agree([ranks[0], {**ranks[1], "device": 0}], 2, 2).sentence


def test_the_ranks_of_each_node_begin_at_its_first_gpu():
    ranks = [
        rank(each, 4, 2, **dict.fromkeys(("local_rank", "device", "current_device"), each % 2)) for each in range(4)
    ]
    gate = gates.ranks_agree(ranks, 2, 4, nodes=2)
    assert gate.verdict == PASS and gate.value.startswith("4 ranks on 4 GPUs of 2 nodes, TP=2 DP=2")
    assert gates.ranks_agree(ranks, 2, 4).verdict == FAIL, "on one node they would be local ranks 0 to 3"
    ranks[3] |= {"current_device": 0}
    assert "rank 3 has current_device 0, not 1" in gates.ranks_agree(ranks, 2, 4, nodes=2).sentence


def test_a_red_environment_on_any_node_is_red_with_that_nodes_number():
    green, red = gates.environment(FACTS, EXPECTED), gates.environment({**FACTS, "engine": "V0"}, EXPECTED)
    assert gates.of_nodes([green] * 4, 2) == green
    assert (
        gates.of_nodes([green, green, green, red], 2).sentence == "on node 1: the live engine is V0, the recipe says V1"
    )
    assert gates.of_nodes([red, green], 2).sentence.startswith("on node 0: ")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"device": 0}, "rank 1 has device 0, not 1"),
        ({"current_device": 0}, "rank 1 has current_device 0, not 1"),
        ({"engine_rank": 0}, "rank 1 has engine_rank 0, not 1"),
        ({"tp_rank": 1}, "rank 1 has tp_rank 1, not 0"),
        ({"tp_size": 2}, "rank 1 has tp_size 2, not 1"),
        ({"wrong": ["lm_head.weight"]}, "rank 1 holds other weights than its shard in 1 of 31"),
        ({"greedy": ((5, 7),)}, "different greedy answers"),
        ({"sampled": ((0,),)}, "draw the same samples"),
        ({"prompts": [0, 2, 4, 6]}, "do not add up to the batch"),
    ],
)
def test_two_replicas_fail_by_name(change, says):
    gate = gates.ranks_agree([rank(0, 2), rank(1, 2, **change)], 1, 2)
    assert gate.verdict == FAIL
    assert says in gate.sentence


def test_ranks_that_share_a_gpu_are_each_local_rank_0():
    zero = {"local_rank": 0, "device": 0, "current_device": 0}
    found = gates.ranks_agree([rank(0, 2), rank(1, 2, **zero)], 1, gpus=1)
    assert found.verdict == PASS
    assert "2 ranks sharing 1 GPU" in found.value
    assert "local_rank 1, not 0" in gates.ranks_agree([rank(0, 2), rank(1, 2)], 1, gpus=1).sentence
    assert gates.ranks_agree([rank(0, 2), rank(1, 2, **zero)], 1, gpus=2).verdict == FAIL


@pytest.mark.parametrize("change", [{"sampled": ((7,),)}, {"greedy": ((9, 9),)}, {"prompts": [0]}])
def test_the_ranks_of_one_replica_must_say_the_same(change):
    gate = gates.ranks_agree([rank(0, 2, 2), rank(1, 2, 2, **change)], 2, 2)
    assert gate.verdict == FAIL
    assert "replica 0" in gate.sentence


def draws(**change):
    sums = {"tokens": 2048, "score": 30.0, "variance": 2048.0, "outside": 100, "expected": 102.0, "spread": 97.0}
    return {**sums, **change}


def test_sampler():
    assert gates.sampler([draws()]).verdict == PASS
    assert "more likely" in gates.sampler([draws(score=250.0)]).sentence
    assert "less likely" in gates.sampler([draws(score=-250.0)]).sentence
    assert "0 tokens are outside" in gates.sampler([draws(outside=0)]).sentence
    assert gates.sampler([draws(score=math.nan)]).verdict == FAIL
    assert gates.sampler([draws(variance=0.0)]).verdict == FAIL
    assert gates.sampler([draws(spread=0.0)]).verdict == FAIL
    # two replicas count together: what each hides by chance, both show
    assert gates.sampler([draws(score=160.0)]).verdict == PASS
    assert gates.sampler([draws(score=160.0), draws(score=160.0)]).verdict == FAIL


def answer(tokens, logprobs):
    return {"tokens": tokens, "logprobs": logprobs}


def test_same_seed():
    one = [answer([1, 2], [-1.0, -2.0])]
    assert gates.same_seed([gates.Repeat.of(one, one)]).verdict == PASS
    near = gates.Repeat.of(one, [answer([1, 2], [-1.0, -2.0 - 2**-40])])
    assert not near.equal
    assert "up to 9.1e-13 apart" in gates.same_seed([gates.Repeat(1, 1, 0.0), near]).sentence
    parted = gates.Repeat.of(one, [answer([1, 3], [-1.0, -9.0])])
    assert (parted.same, parted.apart) == (0, 0.0)
    assert gates.same_seed([parted]).verdict == FAIL
    assert not gates.Repeat.of(one, [answer([1, 2], [math.nan, -2.0])]).equal
    assert not gates.Repeat.of([], []).equal


def test_the_figures_of_nemo_rl():
    found = Agreement.of([-1.0, -2.0], [-1.5, -2.0])  # the trainer's, the engine's
    assert found.kl == pytest.approx((math.exp(0.5) - 1.5) / 2)
    assert found.nemo == "token_mult_prob_error 1.3244, gen_kl_error 7.4e-02"
    assert math.isnan(Agreement.of([math.nan], [1.0]).kl)


def test_an_engine_that_does_not_start_is_gate_10_on_several_ranks():
    error = "RuntimeError: world_size (2) is not equal to tensor_model_parallel_size (1)"
    assert gates.engine_did_not_start(error, 2).id == "10"
    assert error in gates.engine_did_not_start(error, 2).sentence
    assert gates.engine_did_not_start(error, 1).id == "1"


TIMES = {"timing_s/step": 2.0, "timing_s/gen": 1.6, "timing_s/update_actor": 0.2}


def verl(code=0, metrics=TIMES, standin=False, synced=(0.004, 0.004), stale=0.8, steps=None):
    seen = [{"step": place + 1, "synced": vars(agreement(mean))} for place, mean in enumerate(synced)]
    for step in seen[1:]:
        step["stale"] = vars(agreement(stale))
    return gates.grpo({"code": code, "metrics": metrics, "standin": standin, "steps": seen if steps is None else steps})


def test_grpo():
    assert verl().verdict == PASS
    assert "sdpa stand-in" in verl(standin=True).note
    assert "actor/pg_loss is not finite" in verl(metrics={**TIMES, "actor/pg_loss": math.nan}).sentence
    assert "exit code 1" in verl(code=1).sentence
    assert "reported no step" in verl(metrics={}).sentence
    assert "have no timing_s/gen" in verl(metrics={"timing_s/step": 1.0, "timing_s/update_actor": 1.0}).sentence


def test_grpo_sees_a_sync_that_is_left_out_and_one_that_would_not_show():
    assert "did not carry the new weights" in verl(synced=(0.004, 0.8)).sentence
    assert "did not carry the new weights" in verl(synced=(0.004, math.nan)).sentence
    assert "would not show" in verl(stale=0.03).sentence
    assert "would not show" in verl(stale=math.nan).sentence
    # verl 0.3's first step has a learning rate of 0, and changes nothing
    idle, learned = vars(agreement(0.004)), vars(agreement(0.8))
    steps = [
        {"step": 1, "synced": idle},
        {"step": 2, "synced": idle, "stale": idle},
        {"step": 3, "synced": idle, "stale": learned},
    ]
    assert verl(steps=steps).verdict == PASS
    assert "did not carry" in verl(steps=[*steps[:2], {**steps[2], "synced": learned}]).sentence
    assert verl(steps=steps[:2]).verdict == FAIL
    assert "1 steps were seen" in verl(synced=(0.004,)).sentence
    assert "0 steps were seen" in verl(synced=()).sentence
    broken = verl(steps=[{"step": 1, "error": "LookupError: 3 of 32 responses"}])
    assert "the hook in verl's worker failed: LookupError" in broken.sentence


def test_agreement_counts_in_nats():
    found = Agreement.of([-1.0, -2.0], [-1.5, -2.0])
    assert found.mean == pytest.approx(0.25)
    assert found.mean_exp == pytest.approx((math.exp(0.5) + 1) / 2)
    assert math.isnan(Agreement.of([], []).mean)
    assert math.isnan(Agreement.of([math.nan], [1.0]).mean)
    with pytest.raises(ValueError, match="1 logprobs against 2"):
        Agreement.of([1.0], [1.0, 2.0])


def test_a_gate_survives_json():
    import json

    gate = gates.greedy([{"positions": 4, "mutual": 4, "largest_id": 3, "tokenizer": 4}])
    assert gates.Gate.from_dict(json.loads(json.dumps(gate.as_dict()))) == gate

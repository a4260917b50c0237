"""Which cells are measured, in which order, and how long that takes."""

import pytest

from verlock.errors import VerlockError
from verlock.proving import bench_plan
from verlock.proving.bench_plan import Forecast, Options, launches

BOTH = {"vllm073": ["eager", "graphs"], "v1": ["eager", "graphs"]}


def names(plan):
    return [(each.variant, each.mode, [cell.job.name for cell in each.cells]) for each in plan]


def test_compared_engines_take_turns_and_every_other_round_goes_backwards():
    plan = launches(BOTH, Options(shapes=("7b",), jobs=("n1",), iterations=5))
    forward = [("vllm073", "eager"), ("v1", "eager"), ("vllm073", "graphs"), ("v1", "graphs")]
    assert [(each.variant, each.mode) for each in plan] == forward + forward[::-1]
    counts = [each.cells[0].iterations for each in plan]
    assert counts == [3, 3, 3, 3, 2, 2, 2, 2]
    assert {cell.first for each in plan[4:] for cell in each.cells} == {3}  # no prompt is used twice


def test_what_is_measured_when_nothing_is_asked_for():
    plan = launches(BOTH, Options(rounds=1))
    assert [each.shape.name for each in plan if each.variant == "v1" and each.mode == "eager"] == ["0.5b", "1.5b", "7b"]
    seven = [each for each in plan if each.shape.name == "7b"]
    assert names(seven) == [
        ("vllm073", "eager", ["n1", "n8", "script"]),
        ("v1", "eager", ["n1", "n8", "script"]),
        ("vllm073", "graphs", ["n1", "n8", "no-logprobs", "text", "script", "costs"]),
        ("vllm073", "graphs", ["upstream"]),
        ("v1", "graphs", ["n1", "n8", "no-logprobs", "text", "script", "costs"]),
        ("v1", "graphs", ["upstream"]),
    ]
    counts = {(cell.shape.name, cell.job.name): cell.iterations for each in plan for cell in each.cells}
    assert (counts["7b", "n1"], counts["0.5b", "n8"], counts["7b", "script"], counts["7b", "costs"]) == (5, 20, 3, 1)


def test_costs_come_last_on_their_engine_and_in_one_round_only():
    plan = launches({"v1": ["graphs"]}, Options(shapes=("0.5b",), jobs=("costs", "profile", "n1")))
    assert names(plan) == [("v1", "graphs", ["n1", "profile", "costs"]), ("v1", "graphs", ["n1"])]


def test_a_job_that_is_for_graphs_runs_eager_where_both_are_asked_for_by_name():
    assert launches({"v1": ["eager"]}, Options(jobs=("costs",))) == []
    assert len(launches({"v1": ["eager"]}, Options(shapes=("7b",), jobs=("costs",), modes=("eager",)))) == 1


@pytest.mark.parametrize(
    ("given", "said"), [({"shapes": ("8b",)}, "no shape '8b'"), ({"jobs": ("n2",)}, "no job 'n2'")]
)
def test_an_unknown_name_is_refused(given, said):
    with pytest.raises(VerlockError, match=said):
        Options(**given)


def test_the_estimate_is_start_warm_up_and_iterations():
    (launch,) = launches({"v1": ["graphs"]}, Options(shapes=("7b",), jobs=("n1",), rounds=1, iterations=4))
    assert bench_plan.estimate(launch, "V1") == pytest.approx(100 + 4.2 * 131_072 / 10_500)


def test_the_forecast_learns_from_what_was_measured():
    forecast = Forecast()
    assert forecast.of([100.0, 50.0]) == 150.0
    forecast.learn(100.0, 50.0)
    assert forecast.of([100.0, 50.0]) == 75.0

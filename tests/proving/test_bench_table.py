"""Results as files, the table that is made of them, and the plots."""

import json

import benchdata
import pytest

from verlock import paths
from verlock.proving import bench_results, bench_run, bench_table, status
from verlock.variant.chosen import choose


@pytest.fixture
def card(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    return tmp_path / "results/h100-80gb-hbm3/1a2b3c4d"


def rows(card):
    text = bench_table.markdown(card, bench_results.series(card))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_cell_is_a_row_with_its_figures(card):
    benchdata.write(card, benchdata.part("vllm073", "eager", "7b", "n1", [28.0, 30.0, 29.0], 1))
    benchdata.write(card, benchdata.part("vllm073", "eager", "7b", "n1", [29.0, 45.0], 2))
    (row,) = [each for each in rows(card) if each[:2] == ["7b", "`n1`"]]
    least = benchdata.part("vllm073", "eager", "7b", "n1", [1.0])["floor"][0]["seconds"]
    assert row == [
        *("7b", "`n1`", "vllm073 eager", "5 in 2", "29.00", "45.00", "45.00", "1.55"),
        *(f"{131_072 / 29:,.0f}", f"{8 / 29:.1%}", f"{least:.2f}", f"{29 / least:.1f}", "`dddddddddddd`"),
    ]


def test_only_cells_that_differ_in_one_thing_are_compared(card):
    for variant, mode, seconds in (
        ("vllm073", "eager", 30.0),
        ("vllm073", "graphs", 22.0),
        ("v1", "eager", 18.0),
        ("v1", "graphs", 11.0),
    ):
        benchdata.write(card, benchdata.part(variant, mode, "7b", "n1", [seconds] * 5))
    benchdata.write(card, benchdata.part("v1", "graphs", "7b", "n8", [12.0] * 5))
    found = {row[2]: (row[3][:4], row[5]) for row in rows(card) if " / " in row[2] and row[1] == "`n1`"}
    assert found == {
        "vllm073 eager / vllm073 graphs": ("1.36", "1.37 (7B, another card): more than what was seen here"),
        "vllm073 eager / v1 eager": ("1.67", ""),
        "vllm073 graphs / v1 graphs": ("2.00", "1.5 (7B, another card): less than what was seen here"),
        "v1 eager / v1 graphs": ("1.64", ""),
    }


def test_cells_of_two_days_are_compared_with_a_note(card):
    benchdata.write(card, benchdata.part("v1", "eager", "7b", "n1", [18.0]))
    benchdata.write(card, benchdata.part("v1", "graphs", "7b", "n1", [9.0], date="2026-11-28T01:00:00+00:00"))
    assert any("not in one sitting" in cell for row in rows(card) for cell in row)


def test_rounds_of_an_older_digest_are_not_mixed_in(card):
    benchdata.write(
        card, benchdata.part("v1", "eager", "7b", "n1", [50.0], 2, digest="e" * 64, date="2026-11-20T01:00:00+00:00")
    )
    benchdata.write(card, benchdata.part("v1", "eager", "7b", "n1", [18.0], 1))
    (only,) = bench_results.series(card)
    assert only.seconds == [18.0]


def test_what_is_no_result_or_was_cut_off_is_left_out(card):
    benchdata.write(card, benchdata.part("v1", "eager", "7b", "n1", [18.0], complete=False))
    (card / "notes.json").write_text("[1")
    (card / "other.json").write_text('{"a": 1}')
    assert bench_results.series(card) == []


def test_a_red_cell_is_red_and_compared_with_nothing(card):
    red = benchdata.part("v1", "eager", "7b", "n1", [18.0], complete=False, problem="out | of memory\nmore")
    benchdata.write(card, red, benchdata.part("v1", "graphs", "7b", "n1", [9.0]))
    text = bench_table.markdown(card, bench_results.series(card))
    assert "**red: out \\| of memory**" in text and "## Compared" not in text


def test_logprobs_the_yardstick_costs_and_profiles_have_their_tables(card):
    costs = {
        **{key: [0.5, 0.2, 0.3] for key in ("whole", "bucketed", "wake_1", "sleep_2", "wake_2")},
        "sleep_1": [9.0, 2.0, 2.5],
        "weights_gib": 10.0,
        "held_gib": {"awake": 40.0, "asleep_1": 1.8, "asleep_2": 1.7},
    }
    traced = {"seconds": 2.0, "traced_seconds": 2.5, "shares": {"attention": 0.5, "matrices": 1.0, "waiting": 1.0}}
    benchdata.write(
        card,
        benchdata.part("v1", "graphs", "7b", "n1", [12.0] * 5),
        benchdata.part("v1", "graphs", "7b", "no-logprobs", [10.0] * 5),
        benchdata.part("v1", "graphs", "7b", "text", [11.0] * 5),
        benchdata.part("v1", "graphs", "7b", "upstream", [11.2]),
        benchdata.part("v1", "graphs", "7b", "costs", [], costs=costs),
        benchdata.part("v1", "graphs", "7b", "profile", [], profile=traced),
    )
    found = rows(card)
    assert [
        "7b",
        "v1 graphs",
        "with logprobs / without",
        "1.20 (1.20 to 1.20, 97% sure)",
        "what logprobs cost",
    ] in found
    assert ["7b", "v1 graphs", "vLLM's own benchmark, 1 cold run / ours", "1.018", "within 5 %"] in found
    share = f"{2 * 10 * 2**30 / 0.2 / 1e9 / 2900:.0%}"
    assert ["7b", "v1 graphs", "40.0", "9.0", "0.200", "0.200", share, "9.00", "2.00", "0.20", "0.20", "0.20",
            "40.0, 1.8, 1.7"] in found  # fmt: skip
    assert ["7b", "v1 graphs", "2.00, 2.50", "20%", "40%", "0%", "0%", "0%", "40%"] in found


def test_status_says_when_a_digest_is_no_longer_todays(card, capsys):
    benchdata.write(card, benchdata.part("v1", "eager", "7b", "n1", [18.0], digest=choose("v1").digest))
    assert status.show() == 0 and "no longer its digest" not in capsys.readouterr().out
    benchdata.write(card, benchdata.part("v1", "graphs", "7b", "n1", [18.0]))
    assert status.show() == 0
    assert "rollouts of v1 were measured with dddddddddddd, which is no longer its digest (" in capsys.readouterr().out


def test_tables_are_written_again_without_a_gpu(card, capsys):
    benchdata.write(card, benchdata.part("v1", "eager", "7b", "n1", [18.0]))
    assert bench_run.draw_again() == 0
    assert (card / "table.md").read_text() in capsys.readouterr().out


def test_plots_are_drawn_of_all_cells_and_are_the_same_bytes_again(card):
    bench_plots = pytest.importorskip(
        "verlock.proving.bench_plots", reason="matplotlib is in the tools of bench-rollout only"
    )
    for variant, mode in (("vllm073", "eager"), ("v1", "graphs")):
        for job in ("n1", "n8"):
            benchdata.write(card, benchdata.part(variant, mode, "7b", job, [20.0, 22.0, 60.0]))
    known = bench_results.series(card)
    drawn = bench_plots.draw(card, known)
    wanted = [f"{name}.{kind}" for name in ("floor", "iterations", "throughput") for kind in ("png", "svg")]
    assert sorted(path.name for path in drawn) == wanted
    svg = (card / "iterations.svg").read_text()
    for said in ("vllm073", "graphs", "7B, n8", "One H100 80GB HBM3"):
        assert said in svg
    assert svg.count("#d55e00") >= 2 and bench_plots.draw(card, []) == []
    bench_plots.draw(card, known)
    assert (card / "iterations.svg").read_text() == svg


def test_results_in_the_repository_are_results():
    for path in paths.RESULTS.glob("*/*/*.json"):
        assert bench_results.read(path) is not None, path
        assert path.parent.parent.name == bench_results.slug(json.loads(path.read_text())["gpu"]["name"])

"""The whole benchmark on the CPU, with a stand-in for vLLM alone: real processes, watchdog and files; failures are planted."""

import json
import os
import sys
from pathlib import Path

import pytest

from verlock import cli, paths
from verlock.errors import BenchFailed, NoGpu, NotSealed, ReceiptStale, VerlockError
from verlock.proving import bench_launch, bench_results, bench_run, bench_table
from verlock.proving.bench_plan import Options
from verlock.variant.chosen import choose

TESTS = Path(__file__).parent.parent
CARD = {"copy_gb_s": 3000.0, "matmul_tflops": 700.0}
H100 = ("NVIDIA H100 80GB HBM3", 81559, "580.159.04", "GPU-1A2B3C4D-0000")


@pytest.fixture
def bench(tmp_path, monkeypatch, nvidia_smi):
    """Two variants that are built as far as the benchmark can see, and a GPU that nvidia-smi shows."""
    nvidia_smi(H100)
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "envs"))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    for name in ("vllm073", "v1"):
        chosen = choose(name)
        chosen.interpreter.parent.mkdir(parents=True)
        # not a link: Python would look for its packages beside it
        chosen.interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        chosen.interpreter.chmod(0o755)
        sealed = {
            "variant": name, "python": "3.10", "digest": chosen.digest, "missing": {}, "site_wheels": {}, "patches": [],
            "source": None, "editable": None, "base": {"kind": "host", "version": "3.10.13"},
        }  # fmt: skip
        (chosen.prefix / "verlock.json").write_text(json.dumps(sealed))
    monkeypatch.setattr(bench_run.receipt, "read", _sealed)
    starts = tmp_path / "starts"
    starts.write_text("")
    real = bench_launch.configuration
    plants = {}

    def configuration(bench, chosen, launch, cells, head):
        engine = {"plants": {"kind": chosen.recipe.vllm.engine, **plants.get((launch.variant, launch.mode), {})}}
        config = real(bench, chosen, launch, cells, head)
        stand_in = {"engine": "fakebench:FakeEngine", "device": "cpu", "hardware": CARD, "llm": engine}
        return {**config, **stand_in, "limits": {"job": 3.0}}

    monkeypatch.setattr(bench_launch, "configuration", configuration)
    variables = bench_launch.launch_config.variables

    def with_tests(chosen):
        found = variables(chosen)
        return {**found, "PYTHONPATH": f"{found['PYTHONPATH']}{os.pathsep}{TESTS}", "FAKE_STARTS": str(starts)}

    monkeypatch.setattr(bench_launch.launch_config, "variables", with_tests)

    def run(*names, **options):
        options = {"shapes": ("0.5b",), "jobs": ("n1", "n8"), "iterations": 4, **options}
        return bench_run.run(names, None, Options(**options))

    run.plants, run.card = plants, tmp_path / "results/h100-80gb-hbm3/1a2b3c4d"
    run.starts = lambda: starts.read_text().splitlines()
    return run


def _sealed(prefix):
    path = prefix / "verlock.json"
    if not path.exists():
        raise NotSealed("not built")
    return json.loads(path.read_text())


def cells(bench):
    return {(each.engine, each.job): each for each in bench_results.series(bench.card)}


def test_every_cell_is_measured_interleaved_and_told_on_one_page(bench, capsys):
    assert bench() == 0
    assert bench.starts() == [
        "V1 eager", "V0 eager", "V1 graphs", "V0 graphs", "V0 graphs", "V1 graphs", "V0 eager", "V1 eager",
    ]  # fmt: skip
    found = cells(bench)
    assert len(found) == 8 and not any(each.problem for each in found.values())
    n1 = found["v1 graphs", "n1"]
    assert n1.seconds == [131_072 / 1250] * 4 and len(n1.parts) == 2
    part = n1.parts[0]
    assert part["complete"] and part["digest"] == choose("v1").digest and part["engine"] == "V1"
    assert part["gpu"] == {"name": H100[0], "uuid": H100[3], "memory_mib": 81559, "driver": "580.159.04"}
    assert part["iterations"] == [{"seconds": 131_072 / 1250, "tokens": 131_072}] * 2
    assert part["arguments"]["max_num_seqs"] == 256 and "model" not in part["arguments"]
    assert 0 < part["floor"][0]["seconds"] < 1 and part["warm_up_seconds"] == 256 * 64 / 1250
    assert set(part["clocks"]) == {"before", "after"}
    said = capsys.readouterr()
    table = (bench.card / "table.md").read_text()
    assert table in said.out
    assert "1 of 8, about" in said.err and "n1 104.9 104.9 s" in said.err
    assert "| 0.5b | `n1` | vllm073 eager / vllm073 graphs | 1.25 (1.25 to 1.25, 97% sure) | 4, 4 | 1.37" in table


def test_what_is_measured_is_not_measured_again_unless_that_is_asked_for(bench, capsys):
    bench("v1", modes=("eager",))
    assert len(bench.starts()) == 2
    bench("v1", modes=("eager",))
    assert len(bench.starts()) == 2 and "2 of 2 launches are measured already" in capsys.readouterr().err
    bench("v1", modes=("eager",), iterations=6)
    assert len(bench.starts()) == 4
    bench("v1", modes=("eager",), iterations=6, again=True)
    assert len(bench.starts()) == 6


def test_a_run_that_was_cut_off_goes_on_with_the_cells_that_are_missing(bench):
    bench("v1", modes=("eager",), rounds=1)
    path = bench.card / "v1-eager-0.5b-n8-1.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "complete": False, "iterations": data["iterations"][:1]}))
    assert ("v1 eager", "n8") not in cells(bench)
    n1 = (bench.card / "v1-eager-0.5b-n1-1.json").stat().st_mtime_ns
    bench("v1", modes=("eager",), rounds=1)
    assert len(cells(bench)["v1 eager", "n8"].seconds) == 4
    assert (bench.card / "v1-eager-0.5b-n1-1.json").stat().st_mtime_ns == n1


def test_a_result_of_another_digest_is_measured_again(bench):
    bench("v1", modes=("eager",), rounds=1)
    for path in bench.card.glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "0" * 64}))
    assert [each.split(": ")[1][:55] for each in bench_results.stale()] == [
        "rollouts of v1 were measured with 000000000000, which i"
    ]
    bench("v1", modes=("eager",), rounds=1)
    assert list(bench_results.stale()) == []


def test_a_planted_burst_shows_in_the_table_and_in_no_other_cell(bench):
    bench.plants["vllm073", "graphs"] = {"burst": ["n8", 2]}
    bench("vllm073", rounds=1)
    ratios = {key: bench_table.bench_figures.summary([each.seconds]).burst for key, each in cells(bench).items()}
    assert ratios.pop(("vllm073 graphs", "n8")) == pytest.approx(3.0)
    assert set(ratios.values()) == {1.0}


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        ("memory", "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB. (in 'job n1 iteration 0')"),
        ("crash", "the process ended with code -9 in 'job n1 iteration 0'"),
        ("stall", "no progress for "),
        (
            "short",
            "WrongTokens: the engine made 131071 tokens in 256 continuations, where 131072 in 256 were asked for, or gave",
        ),
        ("logprobs", "WrongTokens: the engine left out logprobs that it was asked for"),
    ],
)
def test_a_cell_that_fails_is_red_with_its_reason_and_the_rest_goes_on(bench, plant, said, capsys):
    bench.plants["v1", "eager"] = {plant: ["n1", 1]}
    with pytest.raises(BenchFailed) as caught:
        bench("v1", rounds=1)
    found = cells(bench)
    assert found["v1 eager", "n1"].problem.startswith(said)
    assert "in 'job n1 iteration 0'" in found["v1 eager", "n1"].problem or plant in ("short", "logprobs")
    assert said in caught.value.problem and "red cells: 1" in caught.value.problem
    others = {key: len(each.seconds) for key, each in found.items() if not each.problem}
    assert others == {("v1 eager", "n8"): 4, ("v1 graphs", "n1"): 4, ("v1 graphs", "n8"): 4}
    assert bench.starts() == ["V1 eager", "V1 eager", "V1 graphs"]
    assert "**red: " in (bench.card / "table.md").read_text() and "RED" in capsys.readouterr().err
    bench.plants.clear()
    assert bench("v1", rounds=1) == 0  # the next run tries it again
    assert bench.starts() == ["V1 eager", "V1 eager", "V1 graphs", "V1 eager"]


def test_an_engine_that_does_not_start_makes_all_its_cells_red_at_once(bench):
    bench.plants["v1", "graphs"] = {"start": "CUDA out of memory"}
    with pytest.raises(BenchFailed, match="red cells: 2"):
        bench("v1", rounds=1)
    found = cells(bench)
    assert {key for key, each in found.items() if each.problem} == {("v1 graphs", "n1"), ("v1 graphs", "n8")}
    first, *stack = found["v1 graphs", "n8"].problem.splitlines()
    assert first == "RuntimeError: CUDA out of memory (in 'engine')" and "fakebench.py" in "".join(stack)


def test_nothing_is_started_that_would_end_too_late(bench, capsys):
    assert bench("v1", minutes=0.01) == 0
    assert bench.starts() == [] and "no time left for v1 eager, 0.5b, n1, n8, round 1" in capsys.readouterr().err


def test_vllms_own_benchmark_is_run_after_ours_with_the_same_engine(bench, tmp_path, monkeypatch):
    script = tmp_path / "upstream.py"
    script.write_text(
        "import json, sys\nasked = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "json.dump({'elapsed_time': 9.5, 'argv': sys.argv}, open(asked['--output-json'], 'w'))\n"
    )

    def command(chosen, cell, model, folder, output):
        assert (model / "config.json").exists() and cell.job.name == "upstream"
        return [str(chosen.interpreter), str(script), "--output-json", str(output)]

    monkeypatch.setattr(bench_launch.bench_upstream, "command", command)
    bench("v1", jobs=("text", "upstream"), rounds=1)
    found = cells(bench)
    assert found["v1 graphs", "upstream"].seconds == [9.5]
    assert len(found["v1 graphs", "text"].seconds) == 4
    assert (
        "vLLM's own benchmark, 1 cold run / ours | 0.091 | **further than 5 %**"
        in (bench.card / "table.md").read_text()
    )
    script.write_text("raise SystemExit('out of memory')")
    with pytest.raises(BenchFailed, match="measured nothing: it ended with code 1"):
        bench("v1", jobs=("upstream",), rounds=1, again=True)


def test_the_command_line_asks_for_what_was_typed(bench, capsys):
    asked = "bench-rollout v1 --shape 0.5b --job n8 --mode eager --iterations 3 --rounds 1 --minutes 60"
    assert cli.main(asked.split()) == 0
    assert bench.starts() == ["V1 eager"]
    ((key, each),) = cells(bench).items()
    assert key == ("v1 eager", "n8") and len(each.seconds) == 3
    assert cli.main(["bench-rollout", "--draw"]) == 0
    bench.plants["v1", "eager"] = {"memory": ["n8", 2]}
    assert cli.main([*asked.split(), "--again"]) == 54
    assert "red cells: 1" in capsys.readouterr().err


def test_without_a_gpu_or_an_environment_nothing_is_measured(bench, nvidia_smi):
    with pytest.raises(NotSealed, match="not built"):
        bench("vllm072")
    with pytest.raises(VerlockError, match="has no job 'n9'"):
        bench("v1", jobs=("n9",))
    receipt = choose("v1").prefix / "verlock.json"
    receipt.write_text(receipt.read_text().replace(choose("v1").digest, "0" * 64))
    with pytest.raises(ReceiptStale):
        bench("v1")
    nvidia_smi()
    with pytest.raises(NoGpu):
        bench("v1")
    assert bench.starts() == []

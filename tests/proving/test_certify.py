"""Writing a certificate: what it says of a full pass, and that nothing less becomes one."""

import json

import pytest

from verlock import paths
from verlock.proving import certify
from verlock.proving.kept_parts import Kept
from verlock.proving.passes import FULL, VERL, Pass, over_nodes
from verlock.smoke import gates
from verlock.smoke.gates import Gate
from verlock.system.gpu import Gpus
from verlock.variant import certificate
from verlock.variant.chosen import choose

GPU = "NVIDIA H100 80GB HBM3"
SEALED = {
    "base": {"kind": "conda", "version": "3.10.13", "from": "/home/me/envs/vllm073"},
    "missing": {"flash-attn": "no such host"},
    "site_wheels": {},
    "patches": [{"file": "a.patch", "sha256": "b" * 64}],
    "source": None,
    "editable": False,
    "created": "2025-01-01",
    "prefix": "/home/me/envs/vllm073",
}
FACTS = {"versions": {"vllm": "0.7.3"}, "engine": "V0", "cuda": "12.4", "nccl": "2.21.5"}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CERTIFICATES", tmp_path)
    return tmp_path


def passed(part, gpus=1, gpu=GPU, verdict=gates.PASS):
    details = {"ranks": part.ranks, "gpus": min(part.ranks, gpus), "standin": True, "overrides": ["x=/home/me"]}
    if part != VERL:
        details |= {"facts": {**FACTS, "gpu": gpu}, "fingerprint": [{"tokens": [1]}], "samples": [{"tokens": [2]}]}
    gate = Gate("verl" if part == VERL else "5", verdict, "1", "1", "because" if verdict == gates.FAIL else "")
    return Pass(part.mode, part.tp, "", [gate], 10.0, details)


def launched(day=1, driver="580.159.04", memory=81559, **how):
    """The launches of a full pass, as they are kept."""
    entry = {"driver": driver, "memory_mib": memory, "date": f"2025-05-0{day}T10:00:00+00:00"}
    return {part: {**entry, "run": passed(part, **how).as_dict()} for part in FULL}


def written(parts, across=(), seen=GPU, python=None):
    chosen = choose("vllm073", python)
    path = certify.write(chosen, certify.identity(chosen, seen, SEALED), parts, list(across))
    return path, certificate.of(json.loads(path.read_text()))


def test_it_lies_where_it_is_read_and_says_what_was_proven(scratch):
    across = Pass("eager and graphs", 1, "", [Gate("9", gates.PASS, "1", "1")], 0.0, {"ranks": 1, "gpus": 1}).as_dict()
    path, data = written(launched(), [across])
    assert path == scratch / "vllm073" / "h100-80gb-hbm3x1.json"
    assert certificate.read("vllm073") == [data]
    chosen = choose("vllm073")
    assert (data["variant"], data["python"], data["digest"]) == ("vllm073", "3.10", chosen.digest)
    assert {key: data[key] for key in ("versions", "engine", "cuda", "nccl")} == FACTS
    assert (data["standin"], data["seconds"], data["verl"]["mode"]) == (True, 60.0, "verl")
    modes = [(run["mode"], run["ranks"], run["tp"]) for run in data["runs"]]
    assert modes == [(part.mode, part.ranks, part.tp) for part in FULL if part != VERL] + [("eager and graphs", 1, 1)]
    assert data["layouts"] == ["1 rank", "2 ranks sharing 1 GPU"]


def test_it_is_a_statement_about_the_digest_for_tools_that_sign():
    path, data = written(launched())
    statement = json.loads(path.read_text())
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://in-toto.io/attestation/test-result/v0.1",
    )
    about = {"name": "vllm073 for Python 3.10", "digest": {"sha256": choose("vllm073").digest}}
    assert statement["subject"] == [about]
    predicate = statement["predicate"]
    assert predicate["result"] == "PASSED" and predicate["verlock"] == data
    assert predicate["configuration"] == [about, {"name": "a.patch", "digest": {"sha256": "b" * 64}}]
    assert predicate["passedTests"][0] == "eager, ranks 1, TP=1: gate 5" and len(predicate["passedTests"]) == len(FULL)


def test_it_holds_no_paths_and_nothing_that_only_a_comparison_needs():
    path, data = written(launched())
    assert "/home/me" not in path.read_text()
    assert data["receipt"] == {
        "patches": [{"file": "a.patch", "sha256": "b" * 64}],
        "source": None,
        "editable": False,
        "base": {"kind": "conda", "version": "3.10.13"},
        "missing": ["flash-attn"],
        "site_wheels": {},
    }
    for run in [*data["runs"], data["verl"]]:
        assert not {"facts", "fingerprint", "samples", "overrides"} & set(run)
        assert (run["date"], run["driver"]) == ("2025-05-01T10:00:00+00:00", "580.159.04")


def test_the_gpu_is_the_one_that_torch_ran_on():
    path, data = written(launched(gpu="NVIDIA L4", memory=23034), seen=GPU)
    assert path.name == "l4x1.json"
    assert data["gpu"] == {"name": "NVIDIA L4", "count": 1, "memory_mib": 23034, "driver": "580.159.04"}


def test_two_gpus_count_where_the_ranks_had_one_each():
    path, data = written(launched(gpus=2))
    assert path.name == "h100-80gb-hbm3x2.json"
    assert data["gpu"]["count"] == 2
    assert data["layouts"] == ["1 rank", "2 ranks on 2 GPUs"]


@pytest.mark.parametrize("kernels", [{}, {"bfloat16": [64, 128]}])
def test_the_kernels_of_flash_attn_are_those_that_worked(monkeypatch, kernels):
    monkeypatch.setitem(FACTS, "flash_attn", kernels)
    assert written(launched())[1]["flash_attn"] == kernels


def test_another_python_than_the_first_is_in_the_files_name():
    path, data = written(launched(), python="3.11")
    assert path.name == "h100-80gb-hbm3x1-py311.json"
    assert (data["python"], data["digest"]) == ("3.11", choose("vllm073", "3.11").digest)


def test_parts_of_several_days_have_the_newest_days_date_and_all_their_drivers():
    older, newer = launched(), launched(day=3, driver="590.1", memory=81920)
    _, data = written({part: (newer if part == FULL[2] else older)[part] for part in FULL})
    assert (data["date"], data["gpu"]["memory_mib"]) == ("2025-05-03T10:00:00+00:00", 81920)
    assert data["gpu"]["driver"] == "580.159.04, 590.1"


@pytest.mark.parametrize("part", FULL)
def test_less_than_all_parts_is_never_written(scratch, part):
    parts = launched()
    del parts[part]
    with pytest.raises(ValueError, match="only a full pass"):
        written(parts)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("part", FULL)
def test_a_red_part_is_never_written(scratch, part):
    parts = launched()
    parts[part]["run"] = passed(part, verdict=gates.FAIL).as_dict()
    with pytest.raises(ValueError, match="only a full pass"):
        written(parts)
    assert list(scratch.iterdir()) == []


def spread(nodes=2, ranks=2):
    """The launches of a pass over nodes."""
    entry = {"driver": "580.159.04", "memory_mib": 81559, "date": "2025-05-01T10:00:00+00:00"}
    return {
        part: {**entry, "run": {**passed(part, gpus=ranks).as_dict(), "nodes": nodes}}
        for part in over_nodes(nodes, ranks)
    }


def test_a_pass_over_nodes_says_how_many_and_lies_beside_those_of_one_machine(scratch):
    path, data = written(spread(2, 4))
    assert path == scratch / "vllm073" / "2-nodes" / "h100-80gb-hbm3x4.json"
    assert (data["nodes"], data["layouts"], data["gpu"]["count"]) == (2, ["4 ranks on 4 GPUs of 2 nodes"], 4)
    assert "verl" not in data and "standin" not in data, "verl's own steps are no part of it"
    assert certificate.read("vllm073") == [] and certificate.over_nodes("vllm073") == [data]


def test_launches_over_nodes_and_on_one_machine_do_not_add_up(scratch):
    for parts in ({**launched(), **spread()}, dict(list(spread().items())[:2]), {**spread(2, 2), **spread(3, 3)}, {}):
        with pytest.raises(ValueError, match="only a full pass"):
            written(parts)
    assert list(scratch.iterdir()) == []


def test_a_red_comparison_or_a_sabotage_is_never_written(scratch):
    red = Pass("eager and graphs", 1, "", [Gate("9", gates.FAIL, "1", "1", "because")], 0.0).as_dict()
    with pytest.raises(ValueError, match="only a full pass"):
        written(launched(), [red])
    parts = launched()
    broken = Pass(
        "eager", 1, "stale-cache", [Gate("5", gates.FAIL, "1", "1", "because")], 10.0, {"ranks": 1, "gpus": 1}
    )
    assert broken.problem() == ""
    parts[FULL[0]]["run"] = {**passed(FULL[0]).as_dict(), **broken.as_dict()}
    with pytest.raises(ValueError, match="only a full pass"):
        written(parts)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"created": "2025-02-02", "prefix": "/elsewhere"}, True),
        ({"missing": {"flash-attn": "timed out"}}, True),
        ({"missing": {}}, False),
        ({"base": {"kind": "host", "version": "3.10.13"}}, False),
        ({"base": {"kind": "conda", "version": "3.10.14"}}, False),
        ({"patches": []}, False),
        ({"editable": True}, False),
        ({"source": {"commit": "abc"}}, False),
        ({"site_wheels": {"flash-attn": {"file": "a.whl", "version": "2.7.4", "sha256": "a" * 64}}}, False),
    ],
)
def test_it_is_bound_to_what_is_the_same_everywhere(other, same):
    chosen = choose("vllm073")
    bound = certify.identity(chosen, GPU, SEALED)
    assert (certify.identity(chosen, GPU, {**SEALED, **other}) == bound) is same


def test_it_is_bound_to_lock_python_gpu_and_gates(monkeypatch):
    first = certify.identity(choose("vllm073"), GPU, SEALED)
    assert certify.identity(choose("v1"), GPU, SEALED)["digest"] != first["digest"]
    assert certify.identity(choose("vllm073", "3.11"), GPU, SEALED)["python"] == "3.11"
    assert certify.identity(choose("vllm073"), "NVIDIA L4", SEALED) != first
    monkeypatch.setattr(gates, "NAMES", {**gates.NAMES, "13": "a new one"})
    assert certify.identity(choose("vllm073"), GPU, SEALED) != first


def test_kept_parts_come_back_as_they_were_kept_and_only_under_their_identity(scratch):
    kept = Kept("vllm073", certify.identity(choose("vllm073"), GPU, SEALED))
    machine = Gpus(GPU, 1, 81559, "580.159.04")
    kept.keep(VERL, machine, [passed(VERL)])
    kept.keep(FULL[0], machine, [passed(FULL[0])])
    assert list(kept.read()) == [FULL[0], VERL]
    found = kept.read()[VERL]
    assert (found["driver"], found["memory_mib"], found["run"]["mode"]) == ("580.159.04", 81559, "verl")
    assert Kept("vllm073", certify.identity(choose("vllm073"), GPU, {**SEALED, "missing": {}})).read() == {}
    kept.clear()
    assert kept.read() == {}
    assert list((scratch / "vllm073").iterdir()) == []

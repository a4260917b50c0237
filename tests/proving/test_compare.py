"""Two variants side by side: what differs in their locks, and what was measured of each."""

from __future__ import annotations

import json

import pytest

from verlock import paths
from verlock.errors import UnknownVariant
from verlock.proving import compare
from verlock.variant.chosen import choose


@pytest.fixture
def certified(clone):
    """Writes a certificate for a variant; returns the function."""

    def write(variant, name="h100x1.json", **more):
        digest = choose(variant).digest
        gate = {"id": "3", "name": "logprobs before training", "value": "0.0037"}
        data = {
            "date": "2026-01-01T00:00:00",
            "python": choose(variant).python,
            "digest": digest,
            "gpu": {"name": "NVIDIA H100", "count": 1},
            "standin": False,
            "receipt": {"base": {"kind": "host", "version": "3.10.13"}, "missing": []},
            "runs": [
                {"mode": "eager", "tp": 1, "ranks": 2, "gates": [gate, {"id": "7", "value": "64"}], "seconds": 66.72}
            ],
            "verl": {
                "mode": "verl",
                "tp": 1,
                "gates": [{"id": "verl", "name": "steps of verl", "value": "step 0.92 s"}],
            },
            **more,
        }
        path = clone / "certificates" / variant / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data))

    return write


def clear(clone):
    for path in (clone / "certificates").glob("*/*.json"):
        path.unlink()


def test_what_differs_is_named_and_what_is_the_same_is_not():
    found = {(each.layer, each.package): each for each in compare.packages(choose("vllm073"), choose("vllm083"))}
    assert (found["pip", "vllm"].old, found["pip", "vllm"].new) == ("0.7.3", "0.8.3")
    assert ("pip", "numpy") not in found or found["pip", "numpy"].old != found["pip", "numpy"].new
    one, two = ({pin.name: pin.version for pin in choose(name).pins} for name in ("vllm073", "vllm083"))
    wanted = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    assert {name for layer, name in found if layer == "pip"} == wanted


def test_a_variant_and_itself():
    assert compare.packages(choose("v1"), choose("v1")) == []
    assert next(
        each for each in compare.packages(choose("vllm073"), choose("v1")) if each.package == "vllm"
    ).new.startswith("0.7.4.dev")


def test_figures_stand_side_by_side_and_what_is_not_measured_is_said(clone, certified, capsys):
    clear(clone)
    certified("vllm073")
    assert compare.run("vllm073", "vllm083") == 0
    said = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert "eager, 2 ranks, TP=1 logprobs before training, mean abs(dlogp) 0.0037 not run" in rows
    assert "eager, 2 ranks, TP=1 whole launch, s 66.7 not run" in rows
    assert "verl, 1 rank, TP=1 steps of verl step 0.92 s not run" in rows
    assert "measured on 1 x H100, 2026-01-01 not run" in rows and "64" not in said.partition("measured on")[2]


def test_what_was_measured_of_an_older_lock_or_with_edits_is_not_taken(clone, certified, capsys):
    clear(clone)
    certified("vllm073", digest="0" * 64)
    certified("vllm083", receipt={"base": {"kind": "host", "version": "3"}, "missing": [],
                                  "editable": {"verl": {"commit": "c", "differs": {}}}})  # fmt: skip
    assert compare.run("vllm073", "vllm083") == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "all figures not run not run" in rows
    assert "measured on not run with today's lock not run with today's lock" in rows


def test_an_unknown_variant():
    with pytest.raises(UnknownVariant):
        compare.run("vllm073", "vllm999")


def test_the_repository_s_own():
    """The certificate of vllm073 gives each figure that the table is made of."""
    if compare.proof(choose("vllm073")) is None:
        pytest.skip(f"no certificate of today's lock in {paths.CERTIFICATES}")
    figures = {figure for _, figure in compare.figures(compare.proof(choose("vllm073")))}
    assert {*compare.GATES.values(), *compare.SECONDS.values()} <= figures and len(figures) == 6

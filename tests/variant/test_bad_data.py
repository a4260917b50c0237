"""Whatever a file of the clone or of a prefix holds: it is read, or refused with an error that has words."""

from __future__ import annotations

import contextlib
import json

import baddata
import pytest
import toy
from hypothesis import HealthCheck, given, settings

from verlock import paths
from verlock.env import create
from verlock.errors import CertificateError, LockError, NotSealed, RecipeError, UnknownVariant
from verlock.proving import status
from verlock.variant import certificate, digest, lockfiles, receipt
from verlock.variant.chosen import Chosen, choose

V1 = choose("v1")
few = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
LOCKS = paths.LOCKS / "vllm073"
RECIPE = (paths.RECIPES / "vllm073/recipe.toml").read_text(encoding="utf-8")
CONDA = (LOCKS / lockfiles.CONDA_LOCK).read_text(encoding="utf-8").split("\n- name: ")
CONDA = "\n- name: ".join(CONDA[:3]) + "\n"  # two packages: all are parsed at each example
PINS = "".join((LOCKS / lockfiles.REQUIREMENTS).read_text(encoding="utf-8").splitlines(keepends=True)[:40])
SOURCES = json.loads((paths.LOCKS / "v1" / lockfiles.SOURCES).read_text(encoding="utf-8"))
CERTIFICATE = json.loads((paths.CERTIFICATES / "v1/h100-80gb-hbm3x1.json").read_text(encoding="utf-8"))
SEALED = {
    **toy.SEALED,
    "schema": receipt.SCHEMA,
    "packages": {"six": {"version": "1", "record": "a"}},
    "missing": {"flash-attn": "no"},
    "patches": [{"file": "a", "touches": [{"path": "a", "before": "b", "after": "c"}]}],
}


@few
@given(text=baddata.edited(RECIPE))
def test_recipe_toml(clone, text):
    (clone / "recipes/vllm073/recipe.toml").write_text(text, encoding="utf-8", newline="")
    with contextlib.suppress(RecipeError, UnknownVariant, LockError):
        chosen = choose("vllm073")
        assert chosen.prefix.parent == paths.envs_dir() and chosen.locks.is_relative_to(paths.LOCKS / "vllm073")
        assert chosen.valid().recipe.name == "vllm073"


@settings(max_examples=15)
@given(data=baddata.replaced(dict(V1.data)).filter(lambda data: isinstance(data, dict) and data.get("python")))
def test_a_recipe_of_another_shape(data):
    with contextlib.suppress(RecipeError, LockError):
        assert Chosen("v1", "3.10", data).digest
        assert Chosen("v1", "3.10", data).valid()


@few
@given(text=baddata.edited(PINS))
def test_requirements_txt(tmp_path, text):
    path = tmp_path / lockfiles.REQUIREMENTS
    path.write_text(text, encoding="utf-8", newline="")
    with contextlib.suppress(LockError):
        assert all(pin.hashes for pin in lockfiles.pins(path))


@few
@given(text=baddata.edited(CONDA))
def test_conda_lock_yml(tmp_path, text):
    path = tmp_path / lockfiles.CONDA_LOCK
    path.write_text(text, encoding="utf-8", newline="")
    for read in (lockfiles.conda_packages, digest._conda, lambda path: lockfiles.conda_askers(path, "python")):
        with contextlib.suppress(LockError):
            read(path)


@few
@given(data=baddata.replaced(SOURCES))
def test_sources_json(tmp_path, data):
    (tmp_path / lockfiles.SOURCES).write_text(json.dumps(data), encoding="utf-8")
    with contextlib.suppress(LockError):
        locked = lockfiles.sources(tmp_path)
        for path in [each["path"] for item in locked["patches"] for each in item["touches"]]:
            assert (tmp_path / path).resolve().is_relative_to(tmp_path.resolve())


@few
@given(data=baddata.replaced(SEALED))
def test_a_receipt(clone, data):
    chosen = Chosen("vllm073", "3.10", choose("vllm073").data)
    chosen.prefix.mkdir(parents=True, exist_ok=True)
    if isinstance(data, dict) and data.get("prefix") == "":
        data["prefix"] = str(chosen.prefix)
    (chosen.prefix / receipt.NAME).write_text(json.dumps(data), encoding="utf-8")
    create._present(chosen, create.Options(), None)
    with contextlib.suppress(NotSealed):
        sealed = receipt.read(chosen.prefix)
        receipt.Ran.of(sealed["base"], sealed["missing"], sealed["site_wheels"])
        receipt.said(sealed["site_wheels"])


@few
@given(data=baddata.replaced(CERTIFICATE))
def test_a_certificate(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "v1").mkdir()
    (folder / "v1/a.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(CertificateError):
        patch.setattr(paths, "CERTIFICATES", folder)
        (read,) = certificate.read("v1")
        assert status._row(V1, [read]).date

"""What a bundle decides of an environment, and what is done so that nobody sees that it came from one."""

from __future__ import annotations

import json

import pytest
import toy

from verlock import paths
from verlock.env import bundled
from verlock.errors import BundleRefused
from verlock.variant import manifest
from verlock.variant.chosen import choose


@pytest.fixture
def bundle(clone, tmp_path, monkeypatch):
    """A bundle of nothing but a manifest: vllm073 for two Pythons, on the conda base."""
    for name in ("VERLOCK_BUNDLE", "VERLOCK_OFFLINE"):
        monkeypatch.setenv(name, "")
    facts = {"base": "conda", "python": None, "source": None, "site_wheels": {}, "missing": ["flash-attn"]}
    taken = {python: {**facts, "digest": choose("vllm073", python).digest} for python in ("3.11", "3.12")}
    content = {
        "commit": "c" * 40,
        "repository": "r.tar",
        "tools": ["3.12"],
        "files": [],
        "variants": {"vllm073": taken},
    }
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / manifest.NAME).write_text(manifest.text(content))
    return folder


def test_it_decides_python_and_base_and_says_what_it_lacks(bundle, capsys):
    taken = bundled.use(bundle, "vllm073", None, offline=True)
    assert (taken.python, taken.base, taken.site_wheels) == ("3.11", "conda", {})
    assert "flash-attn is not in the bundle" in capsys.readouterr().err
    assert paths.bundle_dir() == bundle and paths.offline()
    assert bundled.use(bundle, "vllm073", "3.12", offline=False).python == "3.12"


@pytest.mark.parametrize(("variant", "python"), [("vllm073", "3.10"), ("v1", None)])
def test_what_it_lacks_is_refused_with_what_it_has(bundle, variant, python):
    with pytest.raises(BundleRefused, match=f"does not have {variant}") as raised:
        bundled.use(bundle, variant, python, offline=True)
    assert "vllm073 for Python 3.11, 3.12" in raised.value.remedy
    assert paths.bundle_dir() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 2}', "\xff"])
def test_a_manifest_that_is_none_is_refused(bundle, text):
    (bundle / manifest.NAME).write_text(text, encoding="latin-1")
    with pytest.raises(BundleRefused, match="is damaged, or another verlock's"):
        manifest.read(bundle)


def test_another_lock_s_bundle_is_refused(bundle):
    path = bundle / manifest.NAME
    content = json.loads(path.read_text())
    content["variants"]["vllm073"]["3.11"]["digest"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(BundleRefused, match="another lock of vllm073"):
        bundled.use(bundle, "vllm073", "3.11", offline=True)


def test_no_note_of_a_file_s_time_stays_and_record_is_as_from_an_index(tmp_path):
    for name, more in (("plain", {}), ("named", {"named-1.dist-info/direct_url.json": b"{}"})):
        toy.install(
            tmp_path, name, "1", {f"{name}.py": b"", f"{name}-1.dist-info/uv_cache.json": b'{"timestamp": 1}', **more}
        )
    toy.install(tmp_path / "index", "plain", "1", {"plain.py": b""})
    (tmp_path / "linked").hardlink_to(tmp_path / "plain-1.dist-info/RECORD")
    before = {name: (tmp_path / name).read_bytes() for name in ("linked", "named-1.dist-info/RECORD")}
    bundled.as_from_an_index(tmp_path)
    assert not (tmp_path / "plain-1.dist-info/uv_cache.json").exists()
    wanted = (tmp_path / "index/plain-1.dist-info/RECORD").read_text().splitlines()
    assert sorted((tmp_path / "plain-1.dist-info/RECORD").read_text().splitlines()) == sorted(wanted)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before, (
        "neither uv's cache nor a named file is touched"
    )

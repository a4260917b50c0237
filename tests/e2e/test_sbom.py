"""The list of what is on disk, of environments that uv really made."""

from __future__ import annotations

import json
import subprocess

import channel
import pytest
import toy

from verlock.env import installed
from verlock.errors import NotSealed
from verlock.shipping import sbom
from verlock.variant import receipt
from verlock.variant.chosen import choose

if not toy.compiler():
    pytest.skip("the toy's objects need a C compiler", allow_module_level=True)


def name_files(project):
    """Write files.json as `verlock lock` would."""
    entries = [
        {"package": name, "version": version, "filename": file.name, "size": file.stat().st_size,
         "sha256": toy.sha256(file.read_bytes()), "uploaded": "2025-01-01T00:00:00Z"}
        for file in sorted((project.folder / "wheels").glob("*.whl"))
        for name, version in [file.name.split("-")[:2]]
    ]  # fmt: skip
    pins = toy.sha256((project.locks / "requirements.txt").read_bytes())
    build = {"sha256": "", "files": []}
    locked = {"requirements.txt": {"sha256": pins, "files": entries}, "build-requirements.txt": build}
    (project.locks / "files.json").write_text(json.dumps(locked))


@pytest.fixture
def project(tmp_path):
    """A toy project with its environment."""
    made = toy.Project(tmp_path)
    name_files(made)
    made.create()
    return made


def listed(project, **environment):
    done = project.run("sbom", "toy", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_prefix_gives_the_same_bytes_and_a_changed_byte_is_refused(project):
    first = listed(project, PYTHONHASHSEED="1")
    assert listed(project, PYTHONHASHSEED="2", TZ="Asia/Tokyo", LC_ALL="C") == first
    packages = {each["name"]: each for each in json.loads(first)["components"]}
    assert set(packages) == {"torch", "vllm", "verl", "odd", "cpython"}
    assert packages["vllm"]["hashes"][0]["content"] == toy.sha256(
        next((project.folder / "wheels").glob("vllm-*")).read_bytes()
    )
    victim = project.site / "verl/__init__.py"
    text = victim.read_bytes()
    victim.unlink()  # first: it is a hardlink into the cache
    victim.write_bytes(text[:-1] + b" ")
    done = project.run("sbom", "toy")
    assert done.returncode == 46 and done.stdout == "" and "verl/__init__.py" in done.stderr


def test_an_environment_on_conda_packages_lists_both_layers(tmp_path):
    project = toy.Project(tmp_path / "toy")
    try:
        mirror = channel.build(tmp_path / "channel", toy.MINOR)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the channel's wheels are not available: {error.stderr}")
    project.conda_lock(channel.URL, mirror)
    name_files(project)
    project.create("--base", "conda", VERLOCK_CONDA_MIRROR=str(mirror))
    content = json.loads(listed(project))
    found = {each["purl"].partition("@")[0]: each for each in content["components"]}
    conda = {f"pkg:conda/{name}" for name in ("pip", "python", "setuptools", "wheel")}
    pip = {f"pkg:pypi/{name}" for name in ("pip", "setuptools", "wheel", "odd", "torch", "verl", "vllm")}
    assert set(found) == conda | pip
    for file in mirror.glob("*/*.conda"):
        name = file.name.rsplit("-", 2)[0]
        if f"pkg:conda/{name}" in conda:
            component = found[f"pkg:conda/{name}"]
            assert toy.sha256(file.read_bytes()) in [each["content"] for each in component["hashes"]]
            assert "channel=conda-forge" in component["purl"]
    origins = {each["name"]: each["value"] for each in found["pkg:pypi/pip"]["properties"]}
    assert origins["verlock:origin"] == "a part of the conda package" and "hashes" not in found["pkg:pypi/pip"]


def test_a_real_environment_is_listed_whole():
    """Where the environment of vllm073 is built: every distribution and conda package, and nothing else."""
    chosen = choose("vllm073")
    try:
        sealed = receipt.read(chosen.prefix)
    except NotSealed:
        pytest.skip("vllm073 is not built: nox -s env-vllm073")
    content = json.loads(sbom.of(chosen))
    found = [each["purl"] for each in content["components"] if "purl" in each]
    wanted = {f"pkg:pypi/{name}@{version}" for name, (version, _) in installed.packages(chosen.site).items()}
    conda = [each for each in found if each.startswith("pkg:conda/")]
    assert {each.partition("?")[0].replace("%2B", "+") for each in found if each not in conda} == wanted
    assert len(conda) == len(sealed["conda"]) and len(found) == len(set(found))

"""The locks of this repository, and the .in files that they are made from."""

from __future__ import annotations

import re

import pytest
from packaging.version import Version

from verlock import paths
from verlock.locking import locked_files, staleness, sums, wheel_tags, why
from verlock.variant import lockfiles
from verlock.variant.chosen import choose, names

LOCKS = [chosen for variant in names() for chosen in choose(variant).pythons()]
each_lock = pytest.mark.parametrize("chosen", LOCKS, ids=lambda chosen: f"{chosen.name}-{chosen.python}")


def test_the_locks_are_current():
    assert staleness.check() == 0


def test_the_sums_name_every_lock_sorted_and_nothing_else():
    locks = [path for suffix in ("txt", "yml", "json") for path in paths.LOCKS.rglob(f"*.{suffix}")]
    listed = list(sums.read())
    assert listed == sorted(path.relative_to(paths.LOCKS).as_posix() for path in locks)
    assert all(sums.written(sums.read(), path) for path in locks)


@each_lock
def test_every_lock_is_whole(chosen):
    folder, recipe = chosen.locks, chosen.recipe
    pip = {pin.name: pin.version for pin in lockfiles.pins(folder / lockfiles.REQUIREMENTS)}
    layer = {item["name"]: item["version"] for item in lockfiles.conda_packages(folder / lockfiles.CONDA_LOCK)}
    assert layer["python"].startswith(f"{chosen.python}.")
    assert ("gcc" in layer) == recipe.vllm.compiles
    for name in ("pip", "setuptools", "wheel"):
        assert pip[name] == layer[name]
    assert pip["verl"] == recipe.verl.version
    assert pip.get("vllm") == (None if recipe.source else recipe.vllm.version)
    assert {"ray", "hydra-core", "tensordict", "peft", "accelerate", "datasets", "wandb", "torch"} <= set(pip)
    build = {pin.name: pin.version for pin in lockfiles.pins(folder / lockfiles.BUILD_REQUIREMENTS)}
    assert {"setuptools", "wheel"} <= set(build)
    assert all(pip.get(name, version) == version for name, version in build.items())


def test_locks_name_no_index_no_machine_and_no_option():
    index = "py" + "pi|python" + "hosted"
    forbidden = re.compile(
        rf"{index}|file:/|127\.0\.0\.1|localhost|/(home|root|work|opt|tmp)/|^\s*--(?!hash=)", re.MULTILINE
    )
    for path in [*paths.LOCKS.rglob("*.txt"), *paths.LOCKS.rglob("*.yml"), *paths.LOCKS.rglob(lockfiles.FILES)]:
        assert not forbidden.search(path.read_text()), path
    for path in paths.LOCKS.rglob("conda-lock.yml"):
        assert all(
            item["url"].startswith("https://conda.anaconda.org/conda-forge/") for item in lockfiles.conda_packages(path)
        )


@each_lock
def test_one_file_of_each_package_is_named_and_it_is_a_locked_one(chosen):
    ranks = wheel_tags.supported(chosen.python, chosen.recipe.platform.glibc)
    sdists = {lockfiles.normalise(each.package) for each in chosen.recipe.sdist}
    locked = lockfiles.files(chosen.locks)
    for name in lockfiles.PIP_LAYER:
        pins = {pin.name: pin for pin in lockfiles.pins(chosen.locks / name)}
        assert [each["package"] for each in locked[name]["files"]] == sorted(pins)
        for each in locked[name]["files"]:
            pin = pins[each["package"]]
            assert each["version"] == pin.version and f"sha256:{each['sha256']}" in pin.hashes
            assert each["uploaded"] < f"{chosen.recipe.cutoff.date}T00:00:00Z" and each["size"] > 500
            if each["package"] in sdists and name == lockfiles.REQUIREMENTS:
                assert each["filename"].endswith(".tar.gz")
            else:
                assert locked_files._rank(each["filename"], ranks) is not None


@each_lock
def test_the_only_pre_releases_are_those_that_the_recipe_names(chosen):
    found = {
        pin.name
        for name in (lockfiles.REQUIREMENTS, lockfiles.BUILD_REQUIREMENTS)
        for pin in lockfiles.pins(chosen.locks / name)
        if Version(pin.version).is_prerelease
    }
    assert found == {lockfiles.normalise(each.package) for each in chosen.recipe.prerelease}


def test_every_bound_has_a_reason_with_a_link():
    files = [path for path in paths.ENVIRONMENTS.rglob("*.in") if path.parent.name != lockfiles.TOOLS]
    bounded = [(path, item, reason) for path in files for item, reason in why.reasons(path) if item.specifier]
    assert len(bounded) > 20
    assert [(path.name, str(item)) for path, item, reason in bounded if "https://" not in reason] == []


def test_held_packages_are_those_of_vllm_073():
    newest = {pin.name: pin.version for pin in lockfiles.pins(paths.LOCKS / "vllm073" / lockfiles.REQUIREMENTS)}
    for variant in ("vllm070", "vllm071", "vllm072"):
        older = {pin.name: pin.version for pin in lockfiles.pins(paths.LOCKS / variant / lockfiles.REQUIREMENTS)}
        assert {name: older[name] for name in ("ray", "xgrammar")} == {
            name: newest[name] for name in ("ray", "xgrammar")
        }


@each_lock
def test_pip_reads_the_same_pins_and_hashes(chosen):
    from pip._internal.network.session import PipSession
    from pip._internal.req.req_file import parse_requirements

    path = chosen.locks / lockfiles.REQUIREMENTS
    read = {}
    for line in parse_requirements(str(path), session=PipSession()):
        name, _, version = line.requirement.partition(";")[0].strip().partition("==")
        read[lockfiles.normalise(name)] = (version, {f"sha256:{value}" for value in line.options["hashes"]["sha256"]})
    assert read == {pin.name: (pin.version, set(pin.hashes)) for pin in lockfiles.pins(path)}

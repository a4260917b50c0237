"""Reading locks and `lock --check`; the locks of this repository themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from verlock import paths
from verlock.conda import client
from verlock.errors import LockError, StaleLock
from verlock.locking import lock_diff, lock_inputs, resolvers, staleness, why
from verlock.variant import lockfiles, recipe
from verlock.variant.lockfiles import Pin

DIGEST = "a" * 64
PIP_LAYER = ["build-requirements.txt", "requirements.txt"]
LOCKS = [(variant, python) for variant in recipe.names() for python in recipe.load(variant).python]


def written(tmp_path, text):
    path = tmp_path / "requirements.txt"
    path.write_text(text)
    return path


# pins -------------------------------------------------------------------------------------------------


def test_a_pin_has_its_hashes_marker_and_askers(tmp_path):
    text = (
        "# a header\n"
        f"Ruamel.Yaml==0.18.6 ; python_version < '3.11' \\\n    --hash=sha256:{DIGEST} \\\n    --hash=sha256:{'b' * 64}\n"
        "    # via\n    #   one\n    #   -r environments/x.in\n"
        f"six==1.17.0 --hash=sha256:{DIGEST}\n    # via one\n"
    )
    assert lockfiles.pins(written(tmp_path, text)) == [
        Pin(
            "ruamel-yaml",
            "0.18.6",
            (f"sha256:{DIGEST}", f"sha256:{'b' * 64}"),
            "python_version < '3.11'",
            ("one", "-r environments/x.in"),
        ),
        Pin("six", "1.17.0", (f"sha256:{DIGEST}",), "", ("one",)),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("six==1.17.0", "line 3: six has no hash"),
        (f"six>=1.17.0 --hash=sha256:{DIGEST}", "line 3: not a pin"),
        (f"six==1.17.0 --hash=md5:{'a' * 32}", "line 3: not a sha256"),
        (f"six==1.17.0 --hash=sha256:{'a' * 63}", "line 3: not a sha256"),
        ("--extra-index-url https://example.org/simple", "line 3: not a pin"),
        ("-e ./here", "line 3: not a pin"),
        (f"Attrs==25.1.0 --hash=sha256:{DIGEST}", "line 3: attrs is there twice"),
    ],
)
def test_what_is_no_hashed_pin_is_refused_by_line_number(tmp_path, line, complaint):
    with pytest.raises(LockError, match=re.escape(complaint)):
        lockfiles.pins(written(tmp_path, f"attrs==25.1.0 \\\n    --hash=sha256:{DIGEST}\n{line}\n"))


def test_a_missing_lock_says_how_to_make_it(tmp_path):
    with pytest.raises(LockError, match="nox -s lock"):
        lockfiles.pins(tmp_path / "requirements.txt")


names = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?", fullmatch=True)
hashes = st.lists(
    st.binary(min_size=32, max_size=32).map(lambda b: f"sha256:{b.hex()}"), min_size=1, max_size=4, unique=True
)
pins = st.builds(
    Pin,
    names,
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}(\.post1|rc1)?(\+cpu)?", fullmatch=True),
    hashes.map(tuple),
    st.sampled_from(["", "python_full_version < '3.11'"]),
    st.lists(names, max_size=3, unique=True).map(tuple),
)


@given(st.lists(pins, max_size=6, unique_by=lambda pin: pin.name))
def test_what_is_rendered_is_read_back(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("lock") / "requirements.txt"
    path.write_text(resolvers.render("# header\n", made))
    assert lockfiles.pins(path) == sorted(made, key=lambda pin: pin.name)


# the repository's locks -------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "python"), LOCKS)
def test_every_lock_is_whole(variant, python):
    chosen = recipe.load(variant)
    folder = chosen.lock_dir(python)
    pip = {pin.name: pin.version for pin in lockfiles.pins(folder / lockfiles.REQUIREMENTS)}
    layer = {item["name"]: item["version"] for item in client.packages(folder / lockfiles.CONDA_LOCK)}
    assert layer["python"].startswith(f"{python}.")
    assert ("gcc" in layer) == chosen.vllm.compiles
    for name in ("pip", "setuptools", "wheel"):
        assert pip[name] == layer[name]
    assert pip["verl"] == chosen.verl.version
    assert pip.get("vllm") == (None if chosen.source else chosen.vllm.version)
    assert {"ray", "hydra-core", "tensordict", "peft", "accelerate", "datasets", "wandb", "torch"} <= set(pip)
    build = {pin.name: pin.version for pin in lockfiles.pins(folder / lockfiles.BUILD_REQUIREMENTS)}
    assert {"setuptools", "wheel"} <= set(build)
    assert all(pip.get(name, version) == version for name, version in build.items())


@pytest.mark.parametrize(("variant", "python"), LOCKS)
def test_the_content_hash_is_conda_locks_own(variant, python):
    text = (recipe.load(variant).lock_dir(python) / lockfiles.CONDA_LOCK).read_text()
    assert lock_inputs.conda_content_hash(recipe.load(variant), python) in text


def test_locks_name_no_index_no_machine_and_no_option():
    index = "py" + "pi|python" + "hosted"
    forbidden = re.compile(
        rf"{index}|file:/|127\.0\.0\.1|localhost|/(home|root|work|opt|tmp)/|^\s*--(?!hash=)", re.MULTILINE
    )
    for path in [*paths.LOCKS.rglob("*.txt"), *paths.LOCKS.rglob("*.yml")]:
        assert not forbidden.search(path.read_text()), path
    for path in paths.LOCKS.rglob("conda-lock.yml"):
        assert all(item["url"].startswith("https://conda.anaconda.org/conda-forge/") for item in client.packages(path))


@pytest.mark.parametrize(("variant", "python"), LOCKS)
def test_the_only_pre_releases_are_those_that_the_recipe_names(variant, python):
    chosen = recipe.load(variant)
    found = {
        pin.name
        for name in (lockfiles.REQUIREMENTS, lockfiles.BUILD_REQUIREMENTS)
        for pin in lockfiles.pins(chosen.lock_dir(python) / name)
        if Version(pin.version).is_prerelease
    }
    assert found == {lockfiles.normalise(each.package) for each in chosen.prerelease}


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


# check ------------------------------------------------------------------------------------------------


def complaints(*variants):
    with pytest.raises(StaleLock) as caught:
        staleness.check(variants)
    return sorted(line.split()[0] for line in caught.value.problem.splitlines()[1:])


def test_the_locks_are_current():
    assert staleness.check() == 0


def test_comments_and_dates_make_nothing_stale(clone, edit):
    for path in clone.rglob("*.in"):
        path.write_text("# another remark\n\n" + path.read_text().replace("\n# ", "\n# well, "))
        os.utime(path, (0, 0))
    tools = clone / "environments" / "tools" / "requirements.in"
    edit(tools, "# well, cut-off", "# cut-off")
    assert staleness.check() == 0


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("environments/vllm073/requirements.in", "vllm==0.7.3", "vllm==0.7.2", ["requirements.txt"]),
        ("recipes/common/verl-0.3.toml", "date = 2025-04-03", "date = 2025-04-04", [*PIP_LAYER, "conda-lock.yml"]),
        ("recipes/common/linux.toml", 'glibc = "2.28"', 'glibc = "2.31"', [*PIP_LAYER, "conda-lock.yml"]),
        ("recipes/common/verl.toml", 'package = "antlr4-python3-runtime"', 'package = "antlr"', PIP_LAYER),
        ("environments/vllm071/environment.yml", "dependencies: []", "dependencies: [jq]", ["conda-lock.yml"]),
    ],
)  # fmt: skip
def test_a_changed_input_is_named_and_nothing_else(clone, edit, file, old, new, named):
    _, folder, name = file.split("/")
    concerned = [each for each in recipe.names() if folder == each or Path(name).stem in recipe.load(each).include]
    edit(clone / file, old, new)
    stale_files = [
        recipe.load(variant).lock_dir(python) / each
        for variant in concerned
        for python in recipe.load(variant).python
        for each in named
    ]
    assert concerned and complaints() == sorted(str(path.relative_to(clone)) for path in stale_files)


def test_a_shared_input_makes_all_who_include_it_stale(clone, edit):
    edit(clone / "environments/common/vllm-0.7-holds.in", "ray==2.40.0", "ray==2.41.0")
    assert complaints() == [f"locks/vllm07{number}/requirements.txt" for number in (0, 1, 2)]


def test_a_changed_patch_makes_the_sources_stale(clone):
    patch = next((clone / "recipes/vllm072/patches").glob("*.patch"))
    patch.write_text(patch.read_text() + "\n")
    assert complaints() == ["locks/vllm072/sources.json"]


def test_missing_and_orphaned_locks_are_named(clone, edit):
    (clone / "locks/vllm083/conda-lock.yml").unlink()
    (clone / "locks/vllm099").mkdir()
    edit(clone / "recipes/v1/recipe.toml", 'python = ["3.10", "3.11", "3.12"]', 'python = ["3.10", "3.11"]')
    assert complaints() == ["locks/v1/py312", "locks/vllm083/conda-lock.yml", "locks/vllm099"]


def test_a_tools_input_without_its_date_is_refused(clone, edit):
    edit(clone / "environments/tools/requirements.in", "# cut-off:", "# cutoff:")
    with pytest.raises(LockError, match="cut-off"):
        staleness.check(["tools"])


def test_each_set_of_tools_has_a_lock_and_more_than_the_base_set():
    names = lock_inputs.tools_sets()
    assert names[0] == lockfiles.BASE_TOOLS and {"tests", "lint"} <= set(names)
    sets = {name: lock_diff.tree()[lockfiles.TOOLS, "pip" if name == lockfiles.BASE_TOOLS else name] for name in names}
    base = sets.pop(lockfiles.BASE_TOOLS)
    assert "filelock" in base and not {"pytest", "coverage", "ruff", "mypy"} & set(base)
    for name, layer in sets.items():
        assert len(layer) > len(base), name
        differing = [package for package in base if layer[package].version != base[package].version]
        assert differing == [], name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("environments/tools/lint.in", "ruff>=", "ruff>"), ["locks/tools/lint.txt"]),
        (("locks/tools/requirements.txt", "filelock==", "filelock ==="), ["locks/tools/lint.txt", "locks/tools/tests.txt"]),
        (
            ("environments/tools/requirements.in", "filelock>=", "filelock>"),
            ["locks/tools/lint.txt", "locks/tools/requirements.txt", "locks/tools/tests.txt"],
        ),
        (
            ("environments/tools/requirements.in", "# cut-off: 2026", "# cut-off: 2025"),
            ["locks/tools/lint.txt", "locks/tools/requirements.txt", "locks/tools/tests.txt"],
        ),
    ],
)  # fmt: skip
def test_a_set_of_tools_is_stale_by_its_own_file_and_by_the_base_set(clone, edit, change, named):
    file, old, new = change
    edit(clone / file, old, new)
    assert complaints(lockfiles.TOOLS) == named


def test_a_new_set_of_tools_is_a_new_file(clone):
    (clone / "environments/tools/docs.in").write_text("-r requirements.in\nsphinx\n")
    (clone / "environments/tools/lint.in").unlink()
    assert complaints() == ["locks/tools/docs.txt", "locks/tools/lint.txt"]
    with pytest.raises(StaleLock, match=r"lint\.txt belongs to no \.in file"):
        staleness.check()


def test_one_broken_recipe_does_not_hide_the_others(clone, edit):
    edit(clone / "recipes/vllm070/recipe.toml", "summary", "sumary")
    edit(clone / "environments/vllm083/requirements.in", "vllm==0.8.3", "vllm==0.8.2")
    with pytest.raises(StaleLock) as caught:
        staleness.check()
    assert "locks/vllm083/requirements.txt" in caught.value.problem
    assert "sumary" in caught.value.problem


def test_check_needs_no_network_and_no_second():
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from verlock.locking import staleness\n"
        "sys.exit(staleness.check())\n"
    )
    fastest = 9.0
    for _ in range(3):  # the best of three: the machine may be busy
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT, capture_output=True)
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 1.0


def test_a_conda_package_without_sha256_is_refused(tmp_path):
    path = tmp_path / "conda-lock.yml"
    text = (paths.LOCKS / "vllm073" / lockfiles.CONDA_LOCK).read_text()
    path.write_text(re.sub(r"\n    sha256: .*", "", text, count=1))
    with pytest.raises(LockError, match="has no sha256"):
        client.packages(path)
    path.write_text("package: 3\n")
    with pytest.raises(LockError, match=re.escape("not a conda-lock.yml")):
        client.packages(path)


def test_sources_that_are_no_json_are_stale(clone):
    (clone / "locks/v1/sources.json").write_text("{")
    (clone / "locks/vllm073/sources.json").write_text(json.dumps({"patches": [], "wheel": None}))
    assert complaints("v1", "vllm073") == ["locks/v1/sources.json", "locks/vllm073/sources.json"]


@pytest.mark.parametrize(("variant", "python"), LOCKS)
def test_pip_reads_the_same_pins_and_hashes(variant, python):
    from pip._internal.network.session import PipSession
    from pip._internal.req.req_file import parse_requirements

    path = recipe.load(variant).lock_dir(python) / lockfiles.REQUIREMENTS
    read = {}
    for line in parse_requirements(str(path), session=PipSession()):
        name, _, version = line.requirement.partition(";")[0].strip().partition("==")
        read[lockfiles.normalise(name)] = (version, {f"sha256:{value}" for value in line.options["hashes"]["sha256"]})
    assert read == {pin.name: (pin.version, set(pin.hashes)) for pin in lockfiles.pins(path)}


def test_sources_are_kept_while_all_they_are_made_of_is(clone):
    from verlock.locking import lock_writer

    chosen = recipe.load("vllm072")
    folder = chosen.lock_dir()
    old = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert lock_writer._sources_hold(chosen, folder, old)
    assert not lock_writer._sources_hold(chosen, folder, {**old, lockfiles.REQUIREMENTS: b"another pin"})
    assert not lock_writer._sources_hold(
        chosen, folder, {name: data for name, data in old.items() if name != lockfiles.SOURCES}
    )
    patch = next((clone / "recipes/vllm072/patches").glob("*.patch"))
    patch.write_text(patch.read_text() + "\n")
    assert not lock_writer._sources_hold(chosen, folder, old)

"""Exports: what each form holds, read back by the tools that it is for."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import toy
import yaml
from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError, is_valid_pylock_path
from packaging.tags import sys_tags

from verlock import cli
from verlock.errors import BundleRefused, ExportRefused, LockError
from verlock.locking import loopback_index
from verlock.shipping import exports
from verlock.system import package_index
from verlock.variant import lockfiles, manifest
from verlock.variant.chosen import choose, names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ARTEFACT = "flash-attn"


@pytest.fixture
def environment(tmp_path):
    """An empty environment, and what pip or uv say is in it."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"

    def listed():
        code = "import importlib.metadata as m; print(*sorted(f'{d.name} {d.version}' for d in m.distributions()), sep=',')"
        return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    return python, listed


def test_a_pylock_is_what_its_standard_says(small):
    small.lock(**hashes(small), gamma=small.index.sdist("gamma", "1.0", "2025-01-03"))
    text = exports.pylock(small.chosen)
    lock = Pylock.from_dict(tomllib.loads(text))
    lock.validate()
    first, second, third = lock.packages
    assert (first.name, str(first.version), second.name, third.name) == ("alpha", "1.0", "beta", "gamma")
    listed = {each["package"]: each for each in lockfiles.files(small.locks)[lockfiles.REQUIREMENTS]["files"]}
    for package, file in ((first, first.wheels[0]), (second, second.wheels[0]), (third, third.sdist)):
        own = listed[package.name]
        assert file.hashes == {"sha256": own["sha256"]} and file.size == own["size"] and file.name == own["filename"]
        assert file.upload_time.strftime("%Y-%m-%dT%H:%M:%SZ") == own["uploaded"]
        assert file.url == f"{small.index.url.removesuffix('/simple')}/files/{package.name}/{file.name}"
    assert not third.wheels
    about = lock.tool["verlock"]
    assert (about["variant"], about["digest"]) == ("toy", small.chosen.digest)
    assert about["left-out"] == ["the conda layer (Python itself, git, compilers)"]
    assert str(lock.requires_python) == f"=={toy.MINOR}.*"


def hashes(small):
    return {pin.name: pin.hashes[0].removeprefix("sha256:") for pin in small.chosen.pins}


def test_packaging_chooses_the_exported_files(small):
    lock = Pylock.from_dict(tomllib.loads(exports.pylock(small.chosen)))
    chosen = [(package.name, file.name) for package, file in lock.select(tags=list(sys_tags()))]
    assert chosen == [("alpha", "alpha-1.0-py3-none-any.whl"), ("beta", "beta-1.0-py3-none-any.whl")]


@pytest.mark.parametrize("form", ["pylock", "requirements"])
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_pip_and_uv_install_from_it(small, environment, tmp_path, form, tool):
    python, listed = environment
    file = tmp_path / ("pylock.toml" if form == "pylock" else "requirements.txt")
    assert cli.main(["export", "toy", "--to", form, "--output", str(file)]) == 0
    assert form != "pylock" or is_valid_pylock_path(file)
    index = ["--index-url", small.index.url]
    options = ["--require-hashes", "--no-deps"] if form == "requirements" else []
    if tool == "pip":
        command = ["-m", "pip", "--isolated", "--python", python, "install", *index, *options, "-r", file]
    else:
        command = ["-m", "uv", "pip", "install", "--no-config", "--python", python, *index, *options, "-r", file]
        command += ["--cache-dir", tmp_path / "uv-cache"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert listed() == "alpha 1.0,beta 1.0"


@pytest.mark.parametrize("form", ["pylock", "requirements"])
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_pip_and_uv_refuse_other_bytes(small, environment, tmp_path, form, tool):
    python, listed = environment
    file = tmp_path / ("pylock.toml" if form == "pylock" else "requirements.txt")
    assert cli.main(["export", "toy", "--to", form, "--output", str(file)]) == 0
    small.index.release("beta", "1.0", "2025-01-02", salt="other bytes")
    options = ["--no-deps", "--index-url", small.index.url, "-r", file]
    tools = {
        "pip": ["-m", "pip", "--isolated", "--python", python, "install", "--no-cache-dir", *options],
        "uv": [
            "-m",
            "uv",
            "pip",
            "install",
            "--no-config",
            "--cache-dir",
            tmp_path / "uv",
            "--python",
            python,
            *options,
        ],
    }
    done = subprocess.run([sys.executable, *tools[tool]], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and re.search("hash|size mismatch", done.stderr.lower()), done.stderr
    assert "beta" not in listed()


def test_conda_lock_and_rattler_read_both_layers(small, tmp_path):
    file = tmp_path / "conda-lock.yml"
    assert cli.main(["export", "toy", "--to", "conda-lock", "--output", str(file)]) == 0
    code = (
        "import pathlib, sys\n"
        "from conda_lock.lockfile import parse_conda_lock_file\n"
        "lock = parse_conda_lock_file(pathlib.Path(sys.argv[1]))\n"
        "print(*(f'{p.manager} {p.name} {p.version} {p.hash.sha256} {p.url}' for p in lock.package), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    found = sorted(line.split() for line in done.stdout.splitlines())
    urls = {pin.name: f"{small.index.url.removesuffix('/simple')}/files/{pin.name}/{pin.name}-1.0-py3-none-any.whl"
            for pin in small.chosen.pins}  # fmt: skip
    assert found == [
        [
            "conda",
            "python",
            f"{toy.MINOR}.0",
            "a" * 64,
            f"http://127.0.0.1:9/channel/linux-64/python-{toy.MINOR}.0-0.conda",
        ],
        *(["pip", name, "1.0", sha256, urls[name]] for name, sha256 in hashes(small).items()),
    ]
    assert rattler_reads(file) == ["conda python", "pypi alpha", "pypi beta"]


def rattler_reads(file):
    """The kind and name of each package, as py-rattler reads them, in a process that ends by os._exit."""
    code = (
        "import os, sys\nfrom rattler import LockFile\n"
        "environment = LockFile.from_path(sys.argv[1]).default_environment()\n"
        "for package in environment.packages(environment.platforms()[0]):\n"
        "    print('pypi' if 'Pypi' in type(package).__name__ else 'conda', package.name)\n"
        "sys.stdout.flush()\nos._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


@pytest.mark.parametrize("variant", ["vllm073", "v1"])
def test_rattler_reads_the_conda_layer_of_a_real_lock_again(tmp_path, capsys, variant):
    file = tmp_path / "rattler.lock"
    assert cli.main(["export", variant, "--to", "rattler", "--output", str(file)]) == 0
    content = yaml.safe_load(file.read_text())
    said = capsys.readouterr().err
    assert f"it is in version {content['version']} of rattler's format" in said
    assert "not in it: the pip layer" in said
    locked = lockfiles.conda_packages(choose(variant).locks / lockfiles.CONDA_LOCK)
    assert {(each["conda"], each["sha256"]) for each in content["packages"]} == {
        (item["url"], item["sha256"]) for item in locked
    }
    assert rattler_reads(file) == sorted(f"conda {item['name']}" for item in locked)


def test_requirements_hold_every_locked_hash_and_the_artefact(tmp_path):
    from pip._internal.network.session import PipSession
    from pip._internal.req.req_file import parse_requirements

    chosen = choose("vllm073")
    file = tmp_path / "requirements.txt"
    file.write_text(exports.requirements(chosen))
    read = {}
    for line in parse_requirements(str(file), session=PipSession()):
        if line.options:
            read[line.requirement.strip()] = {f"sha256:{value}" for value in line.options["hashes"]["sha256"]}
    artefact = chosen.recipe.artefact[0].file_for(chosen.recipe.torch, chosen.python)
    assert read.pop(f"{ARTEFACT} @ {artefact.url}") == {f"sha256:{artefact.sha256}"}
    assert read == {f"{pin.name}=={pin.version}": set(pin.hashes) for pin in chosen.pins}
    assert "--no-binary antlr4-python3-runtime" in file.read_text()


# a bundle -------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(small, tmp_path):
    """A bundle's folder with the wheels of the small variant, and its manifest; no index is asked from then on."""
    folder = tmp_path / "my media/bundle"
    (folder / manifest.WHEELS).mkdir(parents=True)
    listed = []
    for each in lockfiles.taken(small.locks).values():
        path = f"{manifest.WHEELS}/{each['filename']}"
        (folder / path).write_bytes(small.index.files[each["package"]][each["filename"]][0])
        listed.append({"path": path, "size": each["size"], "sha256": each["sha256"], "for": ["toy"]})
    taken = {"digest": small.chosen.digest, "base": "host", "python": None, "source": None, "site_wheels": {}}
    content = {"commit": "0" * 40, "repository": "repository.tar", "tools": [], "files": listed}
    content["variants"] = {"toy": {toy.MINOR: {**taken, "missing": [ARTEFACT]}}}
    (folder / manifest.NAME).write_text(manifest.text(content))
    small.index.files.clear()
    return folder


def from_bundle(bundle, file):
    return cli.main(["export", "toy", "--to", "pylock", "--from", str(bundle), "--output", str(file)])


def test_a_pylock_of_a_bundle_has_paths_from_itself_and_the_locked_hashes(small, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deep/project").mkdir(parents=True)
    Path("stick").symlink_to("my media")
    for place, name, way in (
        (bundle, "deep/project/pylock.toml", "../../my media/bundle"),
        ("stick/bundle", "deep/pylock.toml", "../stick/bundle"),
        ("my media/bundle", "pylock.here.toml", "my media/bundle"),
        (bundle, "my media/bundle/pylock.toml", "."),
    ):
        assert from_bundle(place, Path(name)) == 0
        lock = Pylock.from_dict(tomllib.loads(Path(name).read_text()))
        lock.validate()
        found = {package.name: package.wheels[0] for package in lock.packages}
        assert {package: wheel.hashes["sha256"] for package, wheel in found.items()} == hashes(small)
        for package, wheel in found.items():
            assert wheel.path == str(Path(way, "wheels", f"{package}-1.0-py3-none-any.whl")) and wheel.url is None
            assert Path(name).parent.joinpath(wheel.path).stat().st_size == wheel.size


def test_a_folder_from_which_pip_and_uv_would_go_different_ways_is_refused(bundle, tmp_path, capsys):
    (tmp_path / "deep/project").mkdir(parents=True)
    (tmp_path / "link").symlink_to("deep/project")
    for folder in ("", "/new"):
        assert from_bundle(bundle, tmp_path / f"link{folder}/pylock.toml") == ExportRefused.exit_code
        assert f"name the file by its real path, in {tmp_path}/deep/project{folder}\n" in capsys.readouterr().err
    assert from_bundle(bundle, tmp_path / "deep/project/pylock.toml") == 0


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_pip_and_uv_install_from_a_bundle_with_no_index(bundle, environment, tmp_path, tool, damaged):
    python, listed = environment
    (tmp_path / "project").mkdir()
    file = tmp_path / "project/pylock.toml"
    assert from_bundle(bundle, file) == 0
    if damaged:
        wheel = bundle / "wheels/beta-1.0-py3-none-any.whl"
        data = wheel.read_bytes()
        wheel.write_bytes(data.replace(b"\0\0\x21\0", b"\0\0\x22\0"))  # a sound archive as long, of files a day younger
        assert data != wheel.read_bytes()
    offline = {
        "pip": ["--isolated", "--python", python, "install", "--no-cache-dir", "--no-index"],
        "uv": ["pip", "install"],
    }
    command = ["-m", tool, *offline[tool], "-r", file]
    if tool == "uv":
        command += ["--no-config", "--offline", "--no-index", "--python", python, "--cache-dir", tmp_path / "uv-cache"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if damaged:
        assert done.returncode != 0 and "hash" in done.stderr.lower(), done.stderr
        assert "beta" not in listed()
    else:
        assert done.returncode == 0, done.stderr
        assert listed() == "alpha 1.0,beta 1.0"


@pytest.mark.parametrize("how", ["gone", "cut off", "not in the manifest", "of another lock"])
def test_a_file_that_the_bundle_lacks_is_refused_by_name(small, bundle, tmp_path, edit, capsys, how):
    wheel = bundle / "wheels/beta-1.0-py3-none-any.whl"
    if how == "gone":
        wheel.unlink()
    elif how == "cut off":
        wheel.write_bytes(wheel.read_bytes()[:-1])
    elif how == "not in the manifest":
        content = manifest.read(bundle)
        content["files"] = [each for each in content["files"] if "beta" not in each["path"]]
        (bundle / manifest.NAME).write_text(manifest.text(content))
    else:
        edit(bundle / manifest.NAME, hashes(small)["beta"], "0" * 64)
    file = tmp_path / "pylock.toml"
    assert from_bundle(bundle, file) == ExportRefused.exit_code
    assert f"{bundle} does not have beta-1.0-py3-none-any.whl with the locked sha256" in capsys.readouterr().err
    assert not file.exists()


def test_an_artefact_is_taken_from_the_bundle_or_said_to_be_lacking(small, bundle, tmp_path, edit, capsys):
    own = "flash_attn-2.8.3+cu12torch2.5-cp310-cp310-linux_x86_64.whl"
    with small.recipe.open("a") as recipe:
        recipe.write(
            f'[[artefact]]\npackage = "{ARTEFACT}"\nversion = "2.8.3"\nreason = "test"\noptional = true\n'
            f'[[artefact.file]]\ntorch = "2.5"\ncxx11abi = false\npython = "{toy.MINOR}"\n'
            f'url = "https://127.0.0.1:9/{own.replace("+", "%2B")}"\nsha256 = "{toy.sha256(b"own")}"\n'
        )
    file = tmp_path / "pylock.toml"
    line = f"{ARTEFACT}, of which the bundle has no locked file"
    assert from_bundle(bundle, file) == 0
    assert f"warning: not in it: {line}\n" in capsys.readouterr().err
    lock = Pylock.from_dict(tomllib.loads(file.read_text()))
    assert [package.name for package in lock.packages] == ["alpha", "beta"] and line in lock.tool["verlock"]["left-out"]

    edit(bundle / manifest.NAME, f'"{ARTEFACT}"', "")
    assert from_bundle(bundle, file) == ExportRefused.exit_code  # a bundle that says nothing of it ought to have it
    assert own in capsys.readouterr().err

    content = manifest.read(bundle)
    content["files"].append({"path": f"artefacts/{own}", "size": 3, "sha256": toy.sha256(b"own"), "for": ["toy"]})
    (bundle / manifest.NAME).write_text(manifest.text(content))
    (bundle / "artefacts").mkdir()
    (bundle / "artefacts" / own).write_bytes(b"own")
    assert from_bundle(bundle, file) == 0
    assert ARTEFACT not in capsys.readouterr().err
    found = {package.name: package for package in Pylock.from_dict(tomllib.loads(file.read_text())).packages}
    assert found[ARTEFACT].wheels[0].path == f"my media/bundle/artefacts/{own}"
    assert str(found[ARTEFACT].version) == "2.8.3+cu12torch2.5"


def test_what_is_no_bundle_and_what_has_no_paths_is_refused(small, bundle, tmp_path, capsys):
    assert from_bundle(tmp_path, tmp_path / "pylock.toml") == BundleRefused.exit_code
    assert "is no finished bundle" in capsys.readouterr().err
    for words in (["--to", "requirements", "--output", str(tmp_path / "out")], ["--to", "pylock"]):
        assert cli.main(["export", "toy", *words, "--from", str(bundle)]) == 2
        assert "--from goes with --to pylock, and with --output FILE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# what packaging refuses in a pylock -----------------------------------------------------------------


def put(place, value):
    """An edit of a parsed pylock: the value at some keys is set, or removed where it is None."""

    def edit(data):
        *outer, last = place
        for key in outer:
            data = data[key]
        if value is None:
            del data[last]
        else:
            data[last] = value

    return edit


WHEEL, SDIST = ("packages", 0, "wheels", 0), ("packages", 2, "sdist")
RULES = {
    "Invalid version: '2.x' in 'lock-version'": put(["lock-version"], "2.x"),
    "Unexpected type float (expected str) in 'lock-version'": put(["lock-version"], 1.0),
    "Missing required value in 'lock-version'": put(["lock-version"], None),
    "Missing required value in 'created-by'": put(["created-by"], None),
    "Missing required value in 'packages'": put(["packages"], None),
    "Unexpected type str (expected Mapping) in 'packages[0]'": put(["packages", 0], "alpha"),
    "Exactly one of vcs, directory, archive must be set": put(["packages", 0, "wheels"], None),
    "None of vcs, directory, archive must be set": put(["packages", 0, "directory"], {"path": "."}),
    "Name 'Alpha' is not normalized in 'packages[0].name'": put(["packages", 0, "name"], "Alpha"),
    "is not consistent with package name 'other' in 'packages[0].wheels[0]'": put(["packages", 0, "name"], "other"),
    "is not consistent with package version '2.0' in 'packages[0].wheels[0]'": put(["packages", 0, "version"], "2.0"),
    "is not consistent with package name 'other' in 'packages[2].sdist'": put(["packages", 2, "name"], "other"),
    "is not consistent with package version '2.0' in 'packages[2].sdist'": put(["packages", 2, "version"], "2.0"),
    "Invalid wheel filename 'alpha-1.0.whl' in 'packages[0].wheels[0]'": put([*WHEEL, "name"], "alpha-1.0.whl"),
    "Invalid sdist filename 'gamma.tar.gz' in 'packages[2].sdist'": put([*SDIST, "name"], "gamma.tar.gz"),
    "path or url must be provided in 'packages[0].wheels[0]'": put([*WHEEL, "url"], None),
    "path or url must be provided in 'packages[2].sdist'": put([*SDIST, "url"], None),
    "Missing required value in 'packages[0].wheels[0].hashes'": put([*WHEEL, "hashes"], None),
    "At least one hash must be provided in 'packages[0].wheels[0].hashes'": put([*WHEEL, "hashes", "sha256"], None),
    "Hash values must be strings in 'packages[2].sdist.hashes'": put([*SDIST, "hashes", "sha256"], 1),
    "Unexpected type bool (expected int) in 'packages[0].wheels[0].size'": put([*WHEEL, "size"], True),
    "Unexpected type int (expected str) in 'environments[0]'": put(["environments", 0], 1),
    "Expected a marker variable or quoted string": put(["environments", 0], 'unheard_of == "linux"'),
    "in 'requires-python'": put(["requires-python"], "3.x"),
}  # fmt: skip


def test_each_rule_of_a_pylock_is_about_something_in_ours_and_is_kept(small):
    small.lock(**hashes(small), gamma=small.index.sdist("gamma", "1.0", "2025-01-03"))
    good = tomllib.loads(exports.pylock(small.chosen))
    Pylock.from_dict(good).validate()
    for rule, edit in RULES.items():
        data = copy.deepcopy(good)
        edit(data)
        with pytest.raises(PylockValidationError, match=re.escape(rule)):
            Pylock.from_dict(data)
    with pytest.raises(PylockUnsupportedVersionError):
        Pylock.from_dict({**good, "lock-version": "2.0"})


@pytest.mark.parametrize("place", ["url", "path"])
@pytest.mark.parametrize("variant", names())
def test_the_pylock_of_every_variant_keeps_the_rules(monkeypatch, variant, place):
    def located(chosen):
        return [
            {**each, "url": f"http://127.0.0.1:9/{each['filename']}"} for each in lockfiles.taken(chosen.locks).values()
        ]

    monkeypatch.setattr(exports, "_located", located)
    for chosen in choose(variant).pythons():
        listed = lockfiles.taken(chosen.locks)
        paths = {each["sha256"]: f"../bundle/wheels/{each['filename']}" for each in listed.values()}
        carried = exports.Carried(Path("bundle"), paths, frozenset({ARTEFACT})) if place == "path" else None
        lock = Pylock.from_dict(tomllib.loads(exports.pylock(chosen, carried)))
        lock.validate()
        found = {package.name: package for package in lock.packages}
        assert len(found) == len(lock.packages)
        for name, each in listed.items():
            package = found.pop(name)
            (file,) = package.wheels or [package.sdist]
            assert (file.name, file.size, file.hashes) == (each["filename"], each["size"], {"sha256": each["sha256"]})
            assert getattr(file, place).endswith(each["filename"]) and (file.url is None) == (place == "path")
        assert set(found) <= {ARTEFACT} and (place == "url" or not found)


def test_a_file_name_under_which_no_tool_reads_a_pylock_is_said(small, tmp_path, capsys):
    odd = ["pylock.json", "pylock..toml", "pylock.a.b.toml", "my-pylock.toml"]
    for name in (*odd, "pylock.toml", "pylock.mine.toml"):
        assert cli.main(["export", "toy", "--to", "pylock", "--output", str(tmp_path / name)]) == 0
        assert ("pip and uv read such a file only under the name" in capsys.readouterr().err) == (name in odd)


@pytest.mark.parametrize("form", ["conda-lock", "rattler"])
def test_a_conda_layer_that_is_none_is_not_exported(small, form):
    (small.locks / lockfiles.CONDA_LOCK).write_text("package: 3\n")
    with pytest.raises(LockError, match=r"is not a conda-lock\.yml"):
        exports.FORMS[form].text(small.chosen)


def test_what_is_left_out_is_said(capsys):
    assert cli.main(["export", "v1", "--to", "requirements"]) == 0
    out, err = capsys.readouterr()
    for line in (
        "the conda layer (Python itself, git, compilers)",
        "vllm, which is built from commit 227578480d71",
        "the patch 0001-Derive-the-data-parallel-size-from-the-world-size.patch of vllm",
    ):
        assert f"warning: not in it: {line}\n" in err
        assert f"# Not in it: {line}.\n" in out


def test_a_list_of_files_of_other_pins_is_refused(small):
    path = small.locks / lockfiles.REQUIREMENTS
    path.write_text(path.read_text() + "# another lock\n")
    with pytest.raises(LockError, match=r"locks/toy/files\.json was made from other pins"):
        exports.pylock(small.chosen)


def test_an_index_without_a_locked_file_is_named(small):
    small.index.files["beta"].clear()
    with pytest.raises(ExportRefused, match=r"127\.0\.0\.1:\d+ does not have beta-1\.0-py3-none-any\.whl"):
        exports.pylock(small.chosen)


@pytest.mark.parametrize("form", ["pylock", "conda-lock"])
def test_a_password_of_the_index_is_not_exported(small, monkeypatch, capsys, form):
    monkeypatch.setenv("UV_DEFAULT_INDEX", small.index.url.replace("http://", "http://user:hush-hush@"))
    assert "hush-hush" in package_index.upstream()
    assert cli.main(["export", "toy", "--to", form]) == 0
    out, err = capsys.readouterr()
    assert "/files/beta/beta-1.0-py3-none-any.whl" in out and "hush" not in out + err


def test_an_address_with_a_token_in_its_path_is_refused(small, monkeypatch):
    real = loopback_index.Index.files
    moved = [("/files/", "/t/to-ken-of-mine/files/")]

    def files(self, name):
        return [
            loopback_index.File(f.filename, f.url.replace(*moved[0]), f.sha256, f.uploaded, None)
            for f in real(self, name)
        ]

    monkeypatch.setattr(loopback_index.Index, "files", files)
    with pytest.raises(ExportRefused, match="has a token in it") as caught:
        exports.pylock(small.chosen)
    assert "to-ken" not in str(caught.value)


def test_the_command_line_and_the_module_know_the_same_forms(capsys):
    with pytest.raises(SystemExit):
        cli.main(["export", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "{" + ",".join(exports.FORMS) + "}" in said

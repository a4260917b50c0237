"""Exports: what each form holds, read back by the tools that it is for."""

from __future__ import annotations

import re
import subprocess
import sys
import venv

import pytest
import toy
import yaml
from packaging.pylock import Pylock, is_valid_pylock_path
from packaging.tags import sys_tags

from verlock import cli
from verlock.errors import ExportRefused, LockError
from verlock.locking import loopback_index
from verlock.shipping import exports
from verlock.system import package_index
from verlock.variant import lockfiles
from verlock.variant.chosen import choose

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

"""Site wheels: what may be named, which files are taken, and what is kept."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
import toy

from verlock import cli
from verlock.env import create, import_check, prefix_folder, site_wheels
from verlock.errors import CheckFailed, RecipeError, SiteWheelRefused
from verlock.sources import wheel_store
from verlock.system import files
from verlock.variant import receipt
from verlock.variant.chosen import choose
from verlock.variant.receipt import Ran

NAME = "flash_attn-2.8.3-cp310-cp310-linux_x86_64.whl"
ENTRY = {"file": NAME, "version": "2.8.3", "sha256": "1a2b3c4d" + "0" * 56}


@pytest.fixture
def chosen(clone):
    return choose("vllm073", "3.10")


@pytest.fixture
def wheel(tmp_path):
    """Makes a wheel, by default one that fits vllm073; `file` is the name it then has."""

    def make(name="flash-attn", version="2.8.3", file=NAME):
        made = toy.wheel(tmp_path / "site", name, version, {"flash_attn/__init__.py": b""})
        return made.rename(made.with_name(file))

    return make


def refused(chosen, path, package="flash-attn"):
    with pytest.raises(SiteWheelRefused) as caught:
        site_wheels.keep(chosen, {package: path})
    assert not wheel_store.root().exists(), "something was kept"
    assert caught.value.exit_code == 61 and "--site-wheel none" in caught.value.remedy
    text = caught.value.problem
    assert str(path) in text and "wanted  a wheel of flash-attn 2.8.3 for Python 3.10" in text
    return text.partition("got     ")[2]


# what is asked ----------------------------------------------------------------------------------------


def test_the_option_wins_over_the_variable(tmp_path):
    assert site_wheels.asked(None, "") is None and site_wheels.asked(None, " , ") is None
    assert site_wheels.asked(["none"], "flash-attn=/a") == {} == site_wheels.asked(None, "none")
    one, two = tmp_path / "one.whl", tmp_path / "two=2.whl"
    assert site_wheels.asked([f"flash-attn={one}"], f"flash-attn={two}") == {"flash-attn": one}
    assert site_wheels.asked(None, f"flash_attn={one}, nvidia.nccl-cu12={two}") == {
        "flash-attn": one,
        "nvidia-nccl-cu12": two,
    }


def test_a_relative_path_and_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = site_wheels.asked(["a=x.whl", "b=~/y.whl"], "")
    assert found == {"a": tmp_path / "x.whl", "b": tmp_path / "y.whl"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("flash-attn", "is not PACKAGE=FILE"),
        ("=x.whl", "is not PACKAGE=FILE"),
        ("flash-attn=", "is not PACKAGE=FILE"),
        ("none,flash-attn=/a", "'none' is not PACKAGE=FILE"),
        ("flash-attn=/a,flash_attn=/b", "two files for flash-attn"),
    ],
)
def test_what_is_not_written_so_is_refused(given, said):
    with pytest.raises(SiteWheelRefused, match=f"VERLOCK_SITE_WHEELS.*{said}"):
        site_wheels.asked(None, given)
    with pytest.raises(SiteWheelRefused, match=f"--site-wheel.*{said}"):
        site_wheels.asked(given.split(","), "")


@pytest.mark.parametrize("form", ["{}", "flash-attn={}"])
def test_an_address_is_refused_and_its_password_is_not_shown(form):
    with pytest.raises(SiteWheelRefused, match="names an address") as caught:
        site_wheels.asked(None, form.format("https://me:hunter2@example.org/x.whl?token=hunter2"))
    assert "hunter2" not in str(caught.value) and "example.org" not in str(caught.value)


def test_the_command_line_hands_it_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(create, "run", lambda variant, options, python: seen.append(options.site_wheels) or 0)
    monkeypatch.delenv("VERLOCK_SITE_WHEELS", raising=False)
    cli.main(["create", "v1"])
    cli.main(["create", "v1", "--site-wheel", "none"])
    cli.main(["create", "v1", "--site-wheel", f"a={tmp_path}/a", "--site-wheel", f"b={tmp_path}/b"])
    monkeypatch.setenv("VERLOCK_SITE_WHEELS", f"c={tmp_path}/c")
    cli.main(["create", "v1"])
    cli.main(["create", "v1", "--site-wheel", "none"])
    assert seen == [None, {}, {"a": tmp_path / "a", "b": tmp_path / "b"}, {"c": tmp_path / "c"}, {}]
    assert cli.main(["create", "v1", "--site-wheel", "nonsense"]) == 61


# which files are taken --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "file"),
    [
        ("2.8.3", NAME),
        ("2.8.3+cu12torch2.5", "flash_attn-2.8.3+cu12torch2.5-cp310-cp310-manylinux_2_17_x86_64.whl"),
        ("2.8.3", "flash_attn-2.8.3%2Bcu12torch2.5-cp310-cp310-linux_x86_64.whl"),
        ("2.8.3", "flash_attn-2.8.3-cp38-abi3-linux_x86_64.whl"),
        ("2.8.3", "flash_attn-2.8.3-py3-none-any.whl"),
    ],
)
def test_a_wheel_that_fits_is_kept_by_its_sha256(chosen, wheel, version, file):
    path = wheel(version=version, file=file)
    sha256 = files.sha256(path)
    name = file.replace("%2B", "+")
    entry = {"file": name, "version": version, "sha256": sha256}
    assert site_wheels.keep(chosen, {"flash-attn": path}) == {"flash-attn": entry}
    path.unlink()
    assert files.sha256(wheel_store.place(name, sha256)) == sha256


def test_a_damaged_kept_copy_is_replaced_from_the_file(chosen, wheel, capsys):
    path = wheel()
    entries = site_wheels.keep(chosen, {"flash-attn": path})
    kept = wheel_store.place(NAME, files.sha256(path))
    kept.write_bytes(b"damaged")
    assert site_wheels.keep(chosen, {"flash-attn": path}) == entries
    assert kept.read_bytes() == path.read_bytes() and "is damaged" in capsys.readouterr().err


def test_another_file_of_that_name_among_the_artefacts_does_not_matter(chosen, wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("VERLOCK_ARTEFACTS", str(tmp_path))
    (tmp_path / NAME).write_bytes(b"another")
    assert site_wheels.keep(chosen, {"flash-attn": wheel()})


@pytest.mark.parametrize(
    ("made", "got"),
    [
        ({"name": "flash-attn-3"}, "flash-attn-3 2.8.3"),
        ({"version": "2.8.2"}, "flash-attn 2.8.2"),
        ({"version": "2.8.3.post1"}, "flash-attn 2.8.3.post1"),
        ({"file": "flash_attn-2.8.2-cp310-cp310-linux_x86_64.whl"}, "a file name that says flash-attn 2.8.2, and metadata"),
        ({"file": "xformers-2.8.3-cp310-cp310-linux_x86_64.whl"}, "a file name that says xformers 2.8.3, and metadata"),
        ({"file": "flash_attn-2.8.3-cp311-cp311-linux_x86_64.whl"}, "a wheel for cp311-cp311-linux_x86_64"),
        ({"file": "flash_attn-2.8.3-cp310-cp310-linux_aarch64.whl"}, "a wheel for cp310-cp310-linux_aarch64"),
        ({"file": "flash_attn-2.8.3-cp310-cp310-win_amd64.whl"}, "a wheel for cp310-cp310-win_amd64"),
        ({"file": "flash_attn.whl"}, "no wheel: "),
        ({"file": "flash_attn-2.8.3.zip"}, "no wheel: "),
        ({"version": "of today"}, "no wheel: "),
    ],
)  # fmt: skip
def test_one_of_another_name_version_or_tag_is_refused(chosen, wheel, made, got):
    assert refused(chosen, wheel(**made)).startswith(got)


def test_what_is_no_wheel_is_refused(chosen, wheel, tmp_path):
    path = tmp_path / NAME
    assert refused(chosen, path) == "no such file"
    path.write_bytes(b"<html>404</html>")
    assert refused(chosen, path).startswith("no wheel")
    path.write_bytes(wheel().read_bytes()[:-30])
    assert refused(chosen, path).startswith("no wheel")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flash_attn/__init__.py", "")
    assert refused(chosen, path) == "no wheel: it has no METADATA"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flash_attn-2.8.3.dist-info/METADATA", "Metadata-Version: 2.1\nName: flash-attn\n")
    assert refused(chosen, path) == "no wheel: its METADATA names no package or no version"
    path.unlink()
    path.mkdir()
    assert refused(chosen, path) == "something that is no file"


def test_only_an_artefact_of_the_recipe_can_have_one(chosen, wheel):
    with pytest.raises(RecipeError, match="torch cannot be a site wheel of vllm073") as caught:
        site_wheels.keep(chosen, {"torch": wheel()})
    assert "it names: flash-attn" in caught.value.remedy


# what is kept -----------------------------------------------------------------------------------------


def sealed(prefix, **fields):
    (prefix / "bin").mkdir(parents=True, exist_ok=True)
    (prefix / "bin/python").touch()
    base = {"kind": "host", "version": "3.10.1"}
    whole = {**toy.SEALED, "schema": 1, "prefix": str(prefix), "variant": "vllm073", "python": "3.10"}
    whole |= {"digest": choose("vllm073", "3.10").digest, "base": base, "missing": {}, "editable": False, **fields}
    if "site_wheels" not in fields:
        del whole["site_wheels"]  # as in a receipt of before there were any
    (prefix / receipt.NAME).write_text(json.dumps({**whole, "fingerprint": receipt.fingerprint(prefix)}))


def test_an_old_receipt_has_none(chosen):
    sealed(chosen.prefix)
    assert receipt.read(chosen.prefix)["site_wheels"] == {} == site_wheels.remembered(chosen)


def test_a_killed_run_s_are_remembered(chosen, wheel):
    entries = site_wheels.keep(chosen, {"flash-attn": wheel()})
    assert site_wheels.remembered(chosen) == {}
    sealed(prefix_folder.aside_of(chosen.prefix), site_wheels=entries)
    prefix_folder.settle(chosen.prefix)
    assert site_wheels.remembered(chosen) == entries


@pytest.fixture
def remade(monkeypatch):
    """Notes what would be made, in the place of making it."""
    calls = []
    monkeypatch.setattr(create, "_make", lambda chosen, *rest: calls.append(rest) or receipt.read(chosen.prefix))
    return calls


def test_what_is_there_stays_until_another_is_named(chosen, wheel, remade, capsys):
    path = wheel()
    entry = {**ENTRY, "sha256": files.sha256(path)}
    sealed(chosen.prefix, site_wheels={"flash-attn": entry})
    create.make(chosen, create.Options())
    assert f"site wheel: flash-attn 2.8.3, {entry['sha256'][:8]}, {NAME}" in capsys.readouterr().err
    create.make(chosen, create.Options(site_wheels={"flash-attn": path}))
    create.make(chosen, create.Options(strict=True))
    assert remade == []
    create.make(chosen, create.Options(site_wheels={}))
    shutil.copyfile(path, other := path.with_name("flash_attn-2.8.3-py3-none-any.whl"))
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("flash_attn/more.py", "")
    create.make(chosen, create.Options(site_wheels={"flash-attn": other}))
    assert [present for *_, present in remade] == [None, None]


def test_none_is_nothing_to_do_where_there_is_none(chosen, remade):
    sealed(chosen.prefix)
    create.make(chosen, create.Options(site_wheels={}))
    assert remade == []


def test_a_kept_file_that_is_gone_is_said_before_anything_is_touched(chosen, remade):
    sealed(chosen.prefix, site_wheels={"flash-attn": ENTRY})
    with pytest.raises(SiteWheelRefused, match=f"no longer has its site wheel\n  flash-attn 2.8.3, {NAME}") as caught:
        site_wheels.remembered(chosen)
    assert "--site-wheel flash-attn=FILE" in caught.value.remedy and "--site-wheel none" in caught.value.remedy


def test_a_kept_file_that_fits_no_longer_is_refused(chosen, wheel, clone, edit):
    sealed(chosen.prefix, site_wheels=site_wheels.keep(chosen, {"flash-attn": wheel()}))
    for path in (clone / "recipes").rglob("*.toml"):
        if 'package = "flash-attn"' in path.read_text():
            edit(path, 'version = "2.8.3"', 'version = "2.9.0"')
    with pytest.raises(SiteWheelRefused, match=r"wanted  a wheel of flash-attn 2\.9\.0"):
        site_wheels.remembered(choose("vllm073", "3.10"))


# what holds for it ------------------------------------------------------------------------------------


def test_another_site_wheel_is_another_combination():
    base = {"kind": "host", "version": "3.10.1"}
    plain = Ran.of(base, [])
    own = Ran.of(base, [], {"flash-attn": ENTRY})
    assert plain == Ran.of(base, [], None) == Ran.of(base, [], {}) == Ran("host", "3.10.1", ())
    assert own.site_wheels == (f"flash-attn {ENTRY['sha256']}",) and own != plain


@pytest.mark.parametrize(("certified", "believed"), [({"flash-attn": ENTRY}, True), ({}, False), (None, False)])
def test_a_certificate_holds_for_its_site_wheels_alone(chosen, clone, certified, believed):
    base = {"kind": "host", "version": "3.10.1"}
    shown = {"base": base, "missing": [], **({} if certified is None else {"site_wheels": certified})}
    folder = clone / "certificates/vllm073"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps({"digest": chosen.digest, "receipt": shown}))
    assert bool(import_check._certificate(chosen, Ran.of(base, [], {"flash-attn": ENTRY}))) is believed
    assert bool(import_check._certificate(chosen, Ran.of(base, []))) is not believed


def test_a_failure_that_is_not_the_site_wheel_s_stays_as_it_is(chosen):
    info = chosen.site / "flash_attn-2.8.3.dist-info"
    info.mkdir(parents=True)
    (info / "RECORD").write_text("flash_attn_2_cuda.so,,\n")
    own, other = (
        CheckFailed(f"fails\n    {name}: undefined symbol: x") for name in ("flash_attn_2_cuda.so", "vllm/_C.so")
    )
    assert import_check._of_site_wheel(chosen, other, {"flash-attn": ENTRY}) is other
    said = str(import_check._of_site_wheel(chosen, own, {"flash-attn": ENTRY}))
    assert NAME in said and "undefined symbol: x" in said and "torch 2.5 with cxx11abi FALSE" in said
    newer = "fails\n    flash_attn_2_cuda.so: /lib/libc.so.6: version `GLIBC_2.99' not found (required by it)"
    said = str(import_check._of_site_wheel(chosen, CheckFailed(newer), {"flash-attn": ENTRY}))
    assert "no newer than this one's" in said and "torch 2.5" not in said

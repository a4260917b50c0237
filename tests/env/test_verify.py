"""`verlock verify` on a small prefix made here: every kind of damage has its name and its exit code, and none is missed."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest
import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verlock import errors, paths
from verlock.env import hashing, installed, verify
from verlock.errors import NotSealed
from verlock.system import files
from verlock.variant import receipt
from verlock.variant.chosen import Chosen, choose

ODD = 'vllm/it\'s, "odd" Ünï.py'
PATCHED = "vllm/distributed/parallel_state.py"


class Prefix:
    """An environment of two packages, one of them patched, and a conda layer of one."""

    def __init__(self) -> None:
        self.root = self.chosen.prefix
        self.site = self.chosen.site
        self.site.mkdir(parents=True)
        self.package(
            "torch", "2.5.1", {"torch/__init__.py": b"torch\n", "torch/lib/libtorch.so": bytes(range(256)) * 20}
        )
        self.package(
            "vllm",
            "0.7.2",
            {"vllm/__init__.py": b"", ODD: b"odd\n", PATCHED: b"as released\n", "../../../bin/vllm": b"#!\n"},
        )
        (self.site / "vllm/__pycache__").mkdir()
        (self.site / "vllm/__pycache__/x.cpython-310.pyc").write_bytes(b"code")
        (self.site / PATCHED).write_bytes(b"patched\n")
        self.conda()
        (self.root / "etc").mkdir()
        (self.root / "etc/own").write_bytes(b"own\n")
        (self.root / "lib64").symlink_to("lib")
        (self.root / "bin/python").symlink_to(sys.executable)
        (self.root / ".lock").touch()  # uv's
        self.host = Path(os.environ["VERLOCK_CACHE"]).parent / "host-python"
        self.host.write_bytes(b"host\n")
        for script in (self.root / "bin").iterdir():
            if not script.is_symlink():
                script.chmod(0o755)
        self.seal()

    @property
    def chosen(self) -> Chosen:
        """What this is an environment of, with the locks as they are now."""
        return choose("vllm072")

    def package(self, name: str, version: str, files: dict[str, bytes]) -> Path:
        return toy.install(self.site, name, version, files, ["vllm/__pycache__/y.cpython-310.pyc", "", ""])

    def conda(self) -> None:
        """A conda package whose script was given its prefix at installation, so that its RECORD no longer fits."""
        info = self.package("pip", "25.0.1", {"pip/__init__.py": b"pip\n", "../../../bin/pip": b"#!/build/python\n"})
        script = self.root / "bin/pip"
        script.write_bytes(b"#!/here/python\n")
        (self.root / "bin/pip3").symlink_to("pip")
        with (info / "RECORD").open("a") as record:
            record.write("../../../bin/pip3.10,sha256=AAAA,1\n")  # conda leaves such lines, and no such file
        paths = [
            {"_path": str(path.relative_to(self.root)), "path_type": "hardlink", "sha256": files.sha256(path)}
            for path in [*info.iterdir(), self.site / "pip/__init__.py"]
        ]
        paths.append(
            {
                "_path": "bin/pip",
                "path_type": "hardlink",
                "sha256": "0" * 64,
                "sha256_in_prefix": files.sha256(script),
            }
        )
        paths.append({"_path": "bin/pip3", "path_type": "softlink", "sha256": files.sha256(script)})
        self.meta = self.root / "conda-meta/pip-25.0.1-py_0.json"
        self.meta.parent.mkdir()
        self.meta.write_text(json.dumps({"name": "pip", "paths_data": {"paths": paths}}))

    def seal(self) -> None:
        packages = {
            name: {"version": version, "record": installed.record_sha256(folder)}
            for name, (version, folder) in installed.packages(self.site).items()
        }
        touched = {"path": PATCHED, "before": "0" * 64, "after": hashlib.sha256(b"patched\n").hexdigest()}
        owned = {"etc/own": files.sha256(self.root / "etc/own"), "lib64": "link:lib", "bin/pip3": "link:pip"}
        owned["bin/python"] = f"link:{sys.executable}"
        owned["conda-meta/pip-25.0.1-py_0.json"] = files.sha256(self.meta)
        receipt.write(
            self.root,
            {
                **toy.SEALED,
                "schema": receipt.SCHEMA,
                "prefix": str(self.root),
                "variant": "vllm072",
                "python": "3.10",
                "digest": self.chosen.digest,
                "base": {
                    "kind": "conda",
                    "version": "3.10.13",
                    "interpreter": {str(self.host): files.sha256(self.host)},
                },
                "conda": ["pip-25.0.1-py_0"],
                "packages": packages,
                "missing": {},
                "files": owned,
                "fingerprint": receipt.fingerprint(self.root),
                "patches": [{"file": "0001-X.patch", "package": "vllm", "touches": [touched]}],
            },
        )

    def damage(self) -> list[verify.Damage]:
        return verify.inspect(self.chosen)

    def code(self, strict: bool = False) -> int:
        """The exit code of `verlock verify`."""
        try:
            return verify.run(self.chosen, as_json=False, strict=strict)
        except errors.VerlockError as error:
            return error.exit_code


@pytest.fixture
def prefix(clone):
    (clone / "locks/vllm072/requirements.txt").write_text(
        "".join(f"{name} --hash=sha256:{'a' * 64}\n" for name in ("torch==2.5.1", "vllm==0.7.2", "pip==25.0.1"))
    )
    return Prefix()


def test_a_whole_prefix(prefix, capsys):
    assert prefix.damage() == []
    assert prefix.code() == 0
    assert "vllm072 is what its lock says: 3 packages" in capsys.readouterr().err


def uninstall(prefix):
    shutil.rmtree(prefix.site / "torch-2.5.1.dist-info")


def other_version(prefix):
    (prefix.site / "torch-2.5.1.dist-info").rename(prefix.site / "torch-2.5.0.dist-info")


def other_record(prefix):
    with (prefix.site / "torch-2.5.1.dist-info/RECORD").open("a") as record:
        record.write("new.py,,\n")


def in_place_of_a_file(prefix, make):
    path = prefix.site / "torch/__init__.py"
    path.unlink()
    make(path)


def add(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"evil")


DAMAGE = {
    "receipt gone": (40, lambda prefix: (prefix.root / receipt.NAME).unlink()),
    "lock changed": (41, lambda prefix: (paths.LOCKS / "vllm072/build-requirements.txt").write_text("")),
    "package gone": (42, uninstall),
    "conda package gone": (42, lambda prefix: prefix.meta.unlink()),
    "another version": (43, other_version),
    "another RECORD": (43, other_record),
    "no RECORD": (43, lambda prefix: (prefix.site / "torch-2.5.1.dist-info/RECORD").unlink()),
    "a package more": (44, lambda prefix: prefix.package("evil", "1", {"evil.py": b""})),
    "a conda package more": (
        44,
        lambda prefix: (prefix.root / "conda-meta/x-1-0.json").write_text('{"name": "x", "paths_data": {"paths": []}}'),
    ),
    "patch undone": (45, lambda prefix: (prefix.site / PATCHED).write_bytes(b"as released\n")),
    "patched file gone": (45, lambda prefix: (prefix.site / PATCHED).unlink()),
    "a byte": (46, lambda prefix: (prefix.site / "torch/__init__.py").write_bytes(b"tarch\n")),
    "a file of an odd name": (46, lambda prefix: (prefix.site / ODD).write_bytes(b"even\n")),
    "a script": (46, lambda prefix: (prefix.root / "bin/vllm").write_bytes(b"#!/evil\n")),
    "a conda file": (46, lambda prefix: (prefix.root / "bin/pip").write_bytes(b"#!/build/python\n")),
    "conda-meta itself": (46, lambda prefix: prefix.meta.write_text(prefix.meta.read_text() + " ")),
    "conda-meta cut short": (46, lambda prefix: prefix.meta.write_text(prefix.meta.read_text()[:50])),
    "conda-meta of another kind": (46, lambda prefix: prefix.meta.write_text("[]")),
    "a file of the base": (46, lambda prefix: (prefix.root / "etc/own").write_bytes(b"")),
    "a link": (46, lambda prefix: [(prefix.root / "lib64").unlink(), (prefix.root / "lib64").symlink_to("etc")]),
    "a conda link": (
        46,
        lambda prefix: [(prefix.root / "bin/pip3").unlink(), (prefix.root / "bin/pip3").symlink_to("vllm")],
    ),
    "a folder for a file": (46, lambda prefix: in_place_of_a_file(prefix, Path.mkdir)),
    "a pipe for a file": (46, lambda prefix: in_place_of_a_file(prefix, os.mkfifo)),
    "a file gone": (47, lambda prefix: (prefix.site / "torch/__init__.py").unlink()),
    "a script gone": (47, lambda prefix: (prefix.root / "bin/vllm").unlink()),
    "a link gone": (47, lambda prefix: (prefix.root / "lib64").unlink()),
    "a link to nowhere for a file": (
        47,
        lambda prefix: in_place_of_a_file(prefix, lambda path: path.symlink_to("/nowhere")),
    ),
    "a conda file gone": (47, lambda prefix: (prefix.site / "pip/__init__.py").unlink()),
    "a file more": (48, lambda prefix: (prefix.site / "torch/extra.py").write_bytes(b"")),
    "a .pth file more": (48, lambda prefix: (prefix.site / "evil.pth").write_bytes(b"import evil\n")),
    "a linked folder more": (48, lambda prefix: (prefix.site / "linked").symlink_to("/tmp")),
    "a start-up file more": (48, lambda prefix: add(prefix.site / "sitecustomize.py")),
    "a user's start-up file more": (48, lambda prefix: add(prefix.site / "usercustomize.py")),
    "byte code without a source": (48, lambda prefix: add(prefix.site / "sitecustomize.pyc")),
    "byte code without a source in a package": (48, lambda prefix: add(prefix.site / "torch/extra.pyc")),
    "byte code beside the standard library": (48, lambda prefix: add(prefix.site.parent / "usercustomize.pyc")),
    "a module beside the standard library": (48, lambda prefix: add(prefix.site.parent / "random.py")),
    "a module in lib-dynload": (48, lambda prefix: add(prefix.site.parent / "lib-dynload/_evil.so")),
    "a program more": (48, lambda prefix: add(prefix.root / "bin/gcc")),
    "a linked program more": (48, lambda prefix: (prefix.root / "bin/gcc").symlink_to("/bin/true")),
    "a library more": (48, lambda prefix: add(prefix.root / "lib/libcuda.so.1")),
    "a header more": (48, lambda prefix: add(prefix.root / "include/python3.10/Python.h")),
    "a setting more": (48, lambda prefix: add(prefix.root / "etc/conda/activate.d/evil.sh")),
    "a lock file among the packages": (48, lambda prefix: add(prefix.site / "torch/x.lock")),
    "an empty package": (48, lambda prefix: (prefix.site / "flash_attn").mkdir()),
    "an empty package in another": (48, lambda prefix: (prefix.site / "flash_attn/sub").mkdir(parents=True)),
    "an empty package with a folder for byte code": (
        48,
        lambda prefix: (prefix.site / "flash_attn/__pycache__").mkdir(parents=True),
    ),
    "an empty package beside the standard library": (48, lambda prefix: (prefix.site.parent / "flash_attn").mkdir()),
    "a script that cannot be started": (46, lambda prefix: (prefix.root / "bin/vllm").chmod(0o644)),
    "a conda script that cannot be started": (46, lambda prefix: (prefix.root / "bin/pip").chmod(0o644)),
    "another host interpreter": (46, lambda prefix: prefix.host.write_bytes(b"other\n")),
    "host interpreter gone": (47, lambda prefix: prefix.host.unlink()),
    "a name that is no text": (
        48,
        lambda prefix: Path(os.fsdecode(os.fsencode(prefix.site) + b"/\xff.py")).write_bytes(b""),
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_kind_of_damage_has_its_exit_code(prefix, kind):
    code, do = DAMAGE[kind]
    do(prefix)
    assert prefix.code() == code


def byte_code(prefix, text=None):
    """Byte code of torch/__init__.py where Python looks for it, as Python writes it; or of another text, its header forged."""
    source = prefix.site / "torch/__init__.py"
    target = source.parent / "__pycache__/__init__.cpython-310.pyc"
    py_compile.compile(str(source), str(target), doraise=True)
    if text is not None:
        other = source.with_name("other")
        other.write_bytes(text)
        py_compile.compile(str(other), f"{other}.pyc", doraise=True)
        target.write_bytes(target.read_bytes()[:16] + other.with_name("other.pyc").read_bytes()[16:])
        other.unlink()
        other.with_name("other.pyc").unlink()
    return target


def test_byte_code_of_its_source_is_no_damage_and_is_compiled_once(prefix, monkeypatch):
    byte_code(prefix)
    assert prefix.damage() == []
    monkeypatch.setattr("verlock.env.byte_code._verdicts", lambda *arguments: pytest.fail("compiled again"))
    assert prefix.damage() == []


def test_forged_byte_code_is_seen_though_time_and_size_fit(prefix):
    byte_code(prefix)
    assert prefix.damage() == []
    byte_code(prefix, b"print('evil')\n")
    for _ in range(2):
        assert [item.path for item in prefix.damage()] == [
            "lib/python3.10/site-packages/torch/__pycache__/__init__.cpython-310.pyc"
        ]
    assert prefix.code() == 46


@pytest.mark.parametrize("change", [lambda host: host.unlink(), lambda host: host.write_bytes(b"other\n")])
def test_what_a_damaged_interpreter_would_compile_is_not_asked(prefix, change):
    byte_code(prefix, b"print('evil')\n")
    change(prefix.host)
    assert [item.path for item in prefix.damage()] == [str(prefix.host)]


def test_byte_code_that_python_throws_away_is_no_damage(prefix):
    target = byte_code(prefix, b"print('old')\n")
    data = target.read_bytes()
    target.write_bytes(data[:8] + b"\0\0\0\0" + data[12:])  # of a source of another time
    target.with_name("__init__.cpython-39.pyc").write_bytes(data)
    target.with_name("gone.cpython-310.pyc").write_bytes(data)
    target.with_name("kernel.py310.nbi").write_bytes(data)
    assert prefix.damage() == []


def test_a_folder_that_cannot_be_imported_may_be_empty(prefix):
    """As wheels with compiled objects leave them, `xxhash.libs` for one."""
    (prefix.site / "xxhash.libs").mkdir()
    (prefix.root / "share/nothing").mkdir(parents=True)
    assert prefix.damage() == []


def test_other_environments_with_the_same_damaged_file_are_named(prefix):
    path = "torch/__init__.py"
    for name, minor in (("vllm071", "3.10"), ("vllm073-py312", "3.12"), ("whole", "3.10")):
        other = prefix.root.with_name(name)
        file = other / "lib" / f"python{minor}" / "site-packages" / path
        file.parent.mkdir(parents=True)
        receipt.write(other, {**toy.SEALED, "schema": receipt.SCHEMA, "prefix": str(other)})
        if name == "whole":
            file.write_bytes(b"torch\n")
        else:
            os.link(prefix.site / path, file)
    (prefix.site / path).write_bytes(b"tarch\n")
    with pytest.raises(errors.FileChanged) as caught:
        verify.run(prefix.chosen, as_json=False, strict=False)
    named = [line.split()[-1] for line in caught.value.problem.splitlines() if "the same file is damaged in" in line]
    assert named == [str(prefix.root.with_name("vllm071")), str(prefix.root.with_name("vllm073-py312"))]


def test_the_worst_kind_decides_and_all_are_named(prefix, capsys):
    for kind in ("a file more", "a byte", "a package more"):
        DAMAGE[kind][1](prefix)
    with pytest.raises(errors.PackageAdded) as caught:
        verify.run(prefix.chosen, as_json=False, strict=False)
    for words in (
        "package added: evil",
        "torch/__init__.py (torch): wanted",
        "file added: lib/python3.10/site-packages/torch/extra.py",
    ):
        assert words in caught.value.problem
    assert "nox -s env-vllm072" in caught.value.remedy


def test_wanted_and_got_are_hashes(prefix):
    (prefix.site / "torch/__init__.py").write_bytes(b"other")
    (found,) = prefix.damage()
    assert found.package == "torch" and found.path.endswith("site-packages/torch/__init__.py")
    assert found.wanted == hashlib.sha256(b"torch\n").hexdigest() and found.got == hashlib.sha256(b"other").hexdigest()


def test_a_file_that_cannot_be_read_is_named_with_the_reason(prefix, monkeypatch):
    real = os.open

    def refuse(path, *arguments, **more):
        if str(path).endswith("torch/__init__.py"):
            raise OSError(5, "Input/output error")
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    count, answers = hashing.hash_share([str(prefix.site / "torch/__init__.py"), str(prefix.root / "etc/own")])
    assert count == 4 and answers[str(prefix.site / "torch/__init__.py")] == "Input/output error"


@pytest.mark.parametrize("data", [b"torch\n", b"other"])
def test_what_was_hashed_ahead_is_not_read_again_and_is_judged_all_the_same(prefix, monkeypatch, data):
    """As `create` does it: the file comes out of uv's store, where it was hashed when it arrived."""
    store = prefix.root.with_name("store")
    (store / "wheel").mkdir(parents=True)
    (store / "wheel/__init__.py").write_bytes(data)
    file = prefix.site / "torch/__init__.py"
    file.unlink()
    os.link(store / "wheel/__init__.py", file)
    read = []
    real = hashing._hash
    sealed, listed = receipt.read(prefix.root), installed.recorded(prefix.site)
    with hashing.Hashed() as ahead:
        ahead.begin([((store / "wheel/__init__.py").stat(), str(store / "wheel/__init__.py"))])
        ahead.wait()
        monkeypatch.setattr(hashing, "_hash", lambda path, block: read.append(path) or real(path, block))
        damage = verify.examine(prefix.chosen, sealed, listed, ahead).damage
    assert [(each.kind, each.got) for each in damage] == (
        [] if data == b"torch\n" else [("file changed", toy.sha256(data))]
    )
    assert read and str(file) not in read
    with hashing.Hashed() as fresh:
        assert verify.examine(prefix.chosen, sealed, listed, fresh).damage == damage and str(file) in read


FILES = [
    "torch/lib/libtorch.so",
    "torch/__init__.py",
    ODD,
    PATCHED,
    "../../../bin/vllm",
    "../../../bin/pip",
    "pip/__init__.py",
]
FILES += ["torch-2.5.1.dist-info/RECORD", "torch-2.5.1.dist-info/METADATA", "../../../conda-meta/pip-25.0.1-py_0.json"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_changed_bit_is_missed(prefix, file, place, bit):
    path = prefix.site / file
    good = path.read_bytes()
    bad = bytearray(good)
    bad[int(place * len(bad))] ^= 1 << bit
    path.write_bytes(bad)
    try:
        assert prefix.damage()
    finally:
        path.write_bytes(good)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(file=st.sampled_from(FILES), length=st.floats(0, 1, exclude_max=True))
def test_no_cut_file_is_missed(prefix, file, length):
    path = prefix.site / file
    good = path.read_bytes()
    path.write_bytes(good[: int(length * len(good))])
    try:
        assert prefix.damage()
    finally:
        path.write_bytes(good)


def test_damage_makes_the_next_create_look_closer(prefix):
    before = receipt.read(prefix.root)
    prefix.code()
    assert receipt.read(prefix.root) == before
    (prefix.site / "torch/__init__.py").write_bytes(b"tarch\n")
    prefix.code()
    assert receipt.read(prefix.root) == {**before, "fingerprint": ""}


def test_the_receipt_is_held_against_the_lock(prefix):
    """A receipt edited by hand does not make another version the locked one."""
    sealed = receipt.read(prefix.root)
    DAMAGE["another version"][1](prefix)
    sealed["packages"]["torch"]["version"] = "2.5.0"
    receipt.write(prefix.root, sealed)
    assert verify.Damage("package changed", "torch", wanted="2.5.1", got="2.5.0") in prefix.damage()


def test_incomplete_is_said_and_under_strict_an_error(prefix, capsys):
    receipt.write(prefix.root, {**receipt.read(prefix.root), "missing": {"flash-attn": "nobody answers"}})
    assert prefix.code() == 0
    assert "incomplete: flash-attn is missing (nobody answers)" in capsys.readouterr().err
    assert prefix.code(strict=True) == 49


def test_json_lists_all(prefix, capsys):
    for number in range(30):
        (prefix.site / f"extra{number}.py").write_bytes(b"")
    with pytest.raises(errors.FileAdded, match="and 10 more"):
        verify.run(prefix.chosen, as_json=True, strict=False)
    report = json.loads(capsys.readouterr().out)
    assert len(report["damage"]) == 30 and report["damage"][0]["kind"] == "file added"


def test_record_in_another_hash_is_refused(prefix):
    info = prefix.package("old", "1", {})
    (info / "RECORD").write_text("old.py,md5=abc,1\n")
    assert any("md5, not sha256" in item.got for item in prefix.damage())


def test_a_record_with_an_empty_line(prefix):
    record = prefix.site / "torch-2.5.1.dist-info/RECORD"
    record.write_text(record.read_text() + "\n\n")
    prefix.seal()
    assert prefix.damage() == []


def test_nothing_there(clone):
    with pytest.raises(NotSealed):
        verify.inspect(choose("vllm072"))


def test_a_broken_recipe_is_said_before_anything_is_hashed(prefix, clone, edit):
    edit(clone / "recipes/vllm072/recipe.toml", "summary =", "sumary =")
    assert prefix.code() == 11


def test_every_kind_has_an_error_and_the_order_is_that_of_the_codes():
    codes = [kind.exit_code for kind in verify.KINDS.values()]
    assert codes == sorted(codes) and len(set(codes)) == len(codes)


def test_of_two_packages_with_one_file_the_last_by_name_owns_it(prefix):
    script = prefix.root / "bin/fastapi"
    prefix.package("fastapi_cli", "0.0.7", {"../../../bin/fastapi": b"from fastapi_cli\n"})
    prefix.package("fastapi", "0.115.12", {"../../../bin/fastapi": b"from fastapi\n"})  # written last, by chance
    prefix.seal()
    assert [item.path for item in prefix.damage() if item.kind == "file changed"] == ["bin/fastapi"]
    script.write_bytes(b"from fastapi_cli\n")
    assert not [item for item in prefix.damage() if item.kind == "file changed"]


def test_an_empty_folder_that_a_wheel_brought_has_to_be_there(prefix):
    folder = prefix.site / "torch/hooks"
    folder.mkdir()
    assert prefix.code() == 48
    sealed = receipt.read(prefix.root)
    receipt.write(prefix.root, {**sealed, "folders": {str(folder.relative_to(prefix.root)): "torch"}})
    assert prefix.damage() == []
    folder.rmdir()
    assert prefix.code() == 47

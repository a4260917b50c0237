"""Step six: what is tried in the environment, what is believed instead, and how a failure reads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from verlock.env import import_check
from verlock.errors import CheckFailed
from verlock.system import uv
from verlock.variant import certificate
from verlock.variant.chosen import choose
from verlock.variant.receipt import Ran
from verlock.variant.recipe import Override

HOST = Ran("host", "3.10.13", ("flash-attn",))


def of(digest):
    """The variant with a digest of the test's own: a cached property is what stands in its place."""
    chosen = choose("vllm073")
    vars(chosen)["digest"] = digest
    return chosen


@pytest.fixture
def python(clone, tmp_path, monkeypatch):
    """Puts a stand-in for the environment's Python there, that answers as a test says; what it was asked is in its log."""
    monkeypatch.setattr(uv, "check", lambda interpreter, aside: None)
    path = choose("vllm073").interpreter
    path.parent.mkdir(parents=True)

    def answer(load="VERLOCK 3", imports="VERLOCK 0.7.3 0.3.0.post1 2.5.1", code=0):
        path.write_text(
            f'#!/bin/sh\ncase "$3" in\n*ctypes*) echo load >> {tmp_path}/log; echo "{load}";;\n'
            f'*) echo import >> {tmp_path}/log; echo "{imports}"; env > {tmp_path}/env;;\nesac\necho why >&2\nexit {code}\n'
        )
        path.chmod(0o755)

    answer()
    answer.log = lambda: (tmp_path / "log").read_text().split()
    answer.env = (tmp_path / "env").read_text
    return answer


def test_objects_load_every_time_and_imports_are_proven_once(python):
    assert import_check.run(of("d1"), HOST) == "vllm 0.7.3, verl 0.3.0.post1 and its trainer, torch 2.5.1 import"
    assert import_check.run(of("d1"), HOST) == "3 compiled objects load; imports proven on this machine before"
    assert python.log() == ["load", "import", "load"]
    import_check.run(of("d2"), HOST)
    assert python.log()[3:] == ["load", "import"], "another digest proves nothing"


def test_another_interpreter_proves_nothing(python):
    import_check.run(of("d1"), HOST)
    python(load="VERLOCK 4")
    import_check.run(of("d1"), HOST)
    assert python.log() == ["load", "import", "load", "import"]


def test_a_certificate_of_this_digest_stands_for_the_imports(python, clone):
    folder = clone / "certificates/vllm073"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"a": "nonsense", "b": "[]", "c": "{}", "d": json.dumps({"digest": "other"})}.items():
        (folder / f"{name}.json").write_text(content)
    import_check.run(of("d0"), HOST)
    assert python.log() == ["load", "import"], "none of these certifies d0"
    sealed = {"base": {"kind": "host", "version": "3.10.13"}, "missing": ["flash-attn"]}
    (folder / "gpu.json").write_text(json.dumps({"digest": "d1", "receipt": sealed}))
    assert (
        import_check.run(of("d1"), HOST) == "3 compiled objects load; imports proven by certificates/vllm073/gpu.json"
    )
    assert python.log() == ["load", "import", "load"]
    inner = {"digest": "d2", "receipt": sealed}
    about = {"subject": [{"digest": {"sha256": "d2"}}], "predicate": {"result": "PASSED", certificate.OWN: inner}}
    about |= {"_type": certificate.STATEMENT, "predicateType": certificate.PREDICATE}
    (folder / "gpu.json").write_text(json.dumps(about))
    import_check.run(of("d2"), HOST)
    assert python.log() == ["load", "import", "load", "load"], "a statement stands for them as well"


@pytest.mark.parametrize(
    "other",
    [Ran("conda", "3.10.13", ("flash-attn",)), Ran("host", "3.10.14", ("flash-attn",)), Ran("host", "3.10.13", ())],
)
def test_a_certificate_of_another_base_interpreter_or_missing_set_proves_nothing(python, clone, other):
    folder = clone / "certificates/vllm073"
    folder.mkdir(parents=True, exist_ok=True)
    sealed = {"base": {"kind": "host", "version": "3.10.13"}, "missing": ["flash-attn"]}
    (folder / "gpu.json").write_text(json.dumps({"digest": "d1", "receipt": sealed}))
    import_check.run(of("d1"), other)
    assert python.log() == ["load", "import"]
    import_check.run(of("d1"), other)
    import_check.run(of("d1"), Ran("host", "9", ()))
    assert python.log()[2:] == ["load", "load", "import"], "nor does what this machine proved of another"


def test_a_failure_has_the_environment_s_own_words_and_proves_nothing(python):
    python(code=1)
    with pytest.raises(CheckFailed, match=r"do not load\n    why"):
        import_check.run(of("d1"), HOST)
    python(imports="")
    for _ in range(2):
        with pytest.raises(CheckFailed, match="fails"):
            import_check.run(of("d1"), HOST)
    assert python.log() == ["load", "load", "import", "load", "import"], "a failure was taken for a proof"
    python()
    assert import_check.run(of("d1"), HOST).endswith("import")


def test_versions_must_be_the_recipe_s(python):
    python(imports="VERLOCK 0.7.2 0.3.0.post1 2.5.1")
    with pytest.raises(CheckFailed, match=r"0\.7\.2.*0\.7\.3"):
        import_check.run(of("d1"), HOST)
    with pytest.raises(CheckFailed):
        import_check.run(of("d1"), HOST)


def test_what_the_recipe_sets_aside_is_told_to_the_consistency_check(python, monkeypatch):
    told = []
    monkeypatch.setattr(uv, "check", lambda interpreter, aside: told.append(aside))
    chosen = of("d1")
    import_check.run(chosen, HOST)
    aside = Override(requirer="Big_One", requirement="numpy<2", reason="a", link="https://example.org")
    vars(chosen)["recipe"] = chosen.recipe.model_copy(update={"override": [aside]})
    import_check.run(chosen, HOST)
    assert told == [[], [("big-one", "numpy<2")]]


def test_the_environment_s_variables_are_set_and_mixing_ones_are_not_passed_on(python, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("VLLM_USE_V1", "1")
    monkeypatch.setenv("HF_HOME", "/models")
    import_check.run(of("d1"), HOST)
    assert "VLLM_USE_V1=0" in python.env() and "HF_HOME=/models" in python.env() and "PYTHONPATH" not in python.env()


TRAINER = """
import os
from verl.trainer import worker
try:
    import not_there_1
except ImportError:
    pass
if os.environ.get("other"):
    import not_there_2

class Runner:
    async def run(self, config):
        with open(config) as file:
            {}
"""


@pytest.mark.parametrize(
    ("statement", "missing"),
    [
        ("import json, os.path", ""),
        ("from verl.trainer import worker, later", ""),
        ("from .worker import Worker as W", ""),
        ("from . import later", ""),
        ("import transfer_queue as tq", "transfer_queue"),
        ("from transfer_queue import KVBatchMeta", "transfer_queue"),
        ("from verl.trainer import gone", "verl.trainer.gone"),
        ("from verl.trainer.worker import Gone", "verl.trainer.worker"),
        ("if config:\n                import transfer_queue", ""),
    ],
)
def test_what_every_run_of_the_trainer_imports_is_imported_and_nothing_else(tmp_path, statement, missing):
    files = {"torch.py": "__version__ = '2'", "vllm.py": "__version__ = '1'", "verl/__init__.py": "__version__ = '0'"}
    files.update({"verl/trainer/__init__.py": "", "verl/trainer/worker.py": "Worker = 1", "verl/trainer/later.py": ""})
    files["verl/trainer/main_ppo.py"] = TRAINER.format(statement)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", import_check._IMPORT], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    if missing:
        assert done.returncode and f"ModuleNotFoundError: No module named '{missing}" in done.stderr
    else:
        assert done.stdout == "VERLOCK 1 0 2\n", done.stderr


# A loader that opens every file, but for those with a certain text in it: one lacks a library until that was loaded by its path.
LOADER = """
import ctypes, sysconfig
opened_already = []
real = sysconfig.get_paths()
sysconfig.get_paths = lambda: {{**real, "purelib": {!r}}}

def opened(path, mode):
    with open(path) as file:
        text = file.read()
    name = path.rpartition("/")[2]
    print(name)
    opened_already.append(name)
    if text == "driver":
        raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
    if text == "cuda" and "libnvrtc.so.13" not in opened_already:
        raise OSError("libnvrtc.so.13: cannot open shared object file: No such file or directory")
    if text == "damaged":
        raise OSError("undefined symbol: cublasLtCreate")

ctypes.CDLL = opened
"""


@pytest.fixture
def load(tmp_path):
    """Run the check of compiled objects on a site-packages of these files; returns what ended."""

    def run(files):
        files = {
            "torch/lib/libtorch_global_deps.so": "",
            "torch/lib/libtorch_python.so": "",
            "vllm/__init__.py": "",
            **files,
        }
        for name, text in {"torch/__init__.py": "raise SystemExit('torch was imported')", **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        code = LOADER.format(str(tmp_path)) + import_check._LOAD
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)

    return run


def test_torch_s_libraries_come_first_and_extension_modules_of_other_pythons_are_passed_over(load):
    found = load(
        {"vllm/_C.abi3.so": "", "vllm/_D.cpython-27-x86_64-linux-gnu.so": "damaged", "flash_attn_2_cuda.abi3.so": ""}
    )
    opened = ["libtorch_global_deps.so", "libtorch_python.so", "_C.abi3.so", "flash_attn_2_cuda.abi3.so"]
    assert found.stdout.split("\n") == [*opened, "VERLOCK 2", ""], found.stderr


def test_a_library_that_torch_s_own_code_would_find_is_found(load):
    files = {"vllm/_C.abi3.so": "cuda", "vllm/_D.abi3.so": "driver", "vllm/_E.abi3.so": "cuda"}
    found = load({**files, "nvidia/cu13/lib/libnvrtc.so.13": ""}).stdout
    assert found.split("\n")[2:] == [
        "_C.abi3.so",
        "libnvrtc.so.13",
        "_C.abi3.so",
        "_D.abi3.so",
        "_E.abi3.so",
        "VERLOCK 2",
        "",
    ]


def test_a_library_that_is_nowhere_is_named(load):
    found = load({"vllm/_C.abi3.so": "cuda"})
    assert found.returncode == 1 and found.stderr.startswith(
        "vllm/_C.abi3.so: libnvrtc.so.13: cannot open shared object"
    )


@pytest.mark.parametrize("path", ["vllm/_C.abi3.so", "torch/lib/libtorch_python.so", "flash_attn_2_cuda.abi3.so"])
def test_an_object_that_does_not_load_is_named(load, path):
    found = load({path: "damaged"})
    assert found.returncode == 1 and found.stderr == f"{path}: undefined symbol: cublasLtCreate\n"

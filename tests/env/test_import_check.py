"""Step six: what is tried in the environment, what is believed instead, and how a failure reads."""

from __future__ import annotations

import json

import pytest

from verlock.env import import_check
from verlock.errors import CheckFailed
from verlock.system import uv
from verlock.variant import certificate
from verlock.variant.chosen import choose
from verlock.variant.receipt import Ran

HOST = Ran("host", "3.10.13", ("flash-attn",))


def of(digest):
    """The variant with a digest of the test's own: a cached property is what stands in its place."""
    chosen = choose("vllm073")
    vars(chosen)["digest"] = digest
    return chosen


@pytest.fixture
def python(clone, tmp_path, monkeypatch):
    """Puts a stand-in for the environment's Python there, that answers as a test says; what it was asked is in its log."""
    monkeypatch.setattr(uv, "check", lambda interpreter: None)
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
    assert import_check.run(of("d1"), HOST) == "vllm 0.7.3, verl 0.3.0.post1, torch 2.5.1 import"
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


def test_the_environment_s_variables_are_set_and_mixing_ones_are_not_passed_on(python, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("VLLM_USE_V1", "1")
    monkeypatch.setenv("HF_HOME", "/models")
    import_check.run(of("d1"), HOST)
    assert "VLLM_USE_V1=0" in python.env() and "HF_HOME=/models" in python.env() and "PYTHONPATH" not in python.env()

"""`doctor`: a sound machine shows nothing, each of the ten known pains is found where it is planted, each with a remedy."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from types import SimpleNamespace

import pytest
import toy

from verlock import cli, paths
from verlock.env import launcher
from verlock.env.doctor import deep, findings, inside, machine, report, surroundings
from verlock.system import download, gpu, package_index
from verlock.system.loopback import Handler, serve
from verlock.variant import receipt
from verlock.variant.chosen import choose

OLD_ABI = b"\0_ZN3c105ErrorC2ENS_14SourceLocationESs\0"
NEW_ABI = b"\0_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE\0"


class Environment:
    """What `doctor` looks at of a finished environment, as small files."""

    def __init__(self, chosen):
        self.chosen, self.site = chosen, chosen.site
        packages = {pin.name: {"version": pin.version} for pin in chosen.pins}
        if chosen.recipe.source:
            wheel = chosen.sources["wheel"]["sha256"]
            packages["vllm"] = {"version": chosen.recipe.vllm.version, "sha256": wheel}
        for name, entry in packages.items():
            self.package(name, entry["version"])
        for path, data in {
            "torch/version.py": f"cuda: Optional[str] = '{chosen.recipe.cuda.version}'\n".encode(),
            "vllm/_C.abi3.so": b"",
            "flash_attn_2_cuda.cpython-310.so": OLD_ABI,
        }.items():
            (self.site / path).parent.mkdir(exist_ok=True)
            (self.site / path).write_bytes(data)
        self.sealed = {**toy.SEALED, "schema": receipt.SCHEMA, "prefix": str(chosen.prefix), "digest": chosen.digest}
        self.sealed["packages"] = packages
        self.seal()

    def package(self, name, version, *needs):
        """Install a version of a package, in the place of any other, with what it asks for."""
        for old in self.site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(old)
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\n" + "".join(f"Requires-Dist: {n}\n" for n in needs) + "\nRequires-Dist: prose\n"
        )

    def seal(self):
        receipt.write(self.chosen.prefix, self.sealed)


@pytest.fixture
def hosts(monkeypatch):
    """The index, the channel, the git host and the release host are one server on this machine."""

    class Answers(Handler):
        def do_GET(self):
            self.answer(404)

    with serve(Answers) as url:
        monkeypatch.setattr(package_index, "upstream", lambda: url)
        monkeypatch.setattr(
            surroundings, "_of_variant", lambda chosen: [("conda channel", f"{url}/channel", "a mirror")]
        )
        yield url


@pytest.fixture
def sound(clone, hosts, nvidia_smi, monkeypatch, tmp_path):
    """A machine with one H100 and nothing wrong."""
    for name in list(os.environ):
        if (
            any(re.fullmatch(each.name.replace("*", ".*"), name) for each in surroundings.VARIABLES)
            or name == "LD_LIBRARY_PATH"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    graphics(monkeypatch)
    monkeypatch.setattr(
        report, "LIMIT", 120.0
    )  # what is found matters here, not how soon: others work on the machine too
    monkeypatch.setattr(surroundings, "PATIENCE", 60.0)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: Usage(10**13, 0, 10**13))
    Environment(choose("vllm073"))
    return choose("vllm073")


Usage = namedtuple("Usage", "total used free")


def graphics(monkeypatch, driver="580.159.04", capability="9.0", used="4"):
    """What nvidia-smi says of one H100."""
    said = {
        "driver_version": driver,
        "compute_cap": capability,
        "memory.used": used,
        "index,uuid,name,memory.total,driver_version,mig.mode.current": f"0, GPU-1, NVIDIA H100, 81559, {driver}, Disabled",
    }
    monkeypatch.setattr(gpu, "_said", lambda *arguments: said[arguments[0].partition("=")[2]])
    monkeypatch.setattr(gpu, "_KERNEL_DRIVER", paths.Path("/nonexistent"))


def wrong(capsys, variant="vllm073"):
    """What is not OK, as `doctor --json` says it; each such answer has a remedy."""
    code = cli.main(["doctor", *([variant] if variant else []), "--json"])
    answers = json.loads(capsys.readouterr().out)
    found = [each for each in answers if each["state"] != findings.OK]
    assert all(each["remedy"] for each in found)
    assert all("{" not in each["said"] + each["remedy"] for each in answers)
    assert code == (65 if any(each["state"] == findings.BAD for each in found) else 0)
    return {each["check"]: each for each in found}


@pytest.mark.parametrize("variant", ["vllm073", None])
def test_a_sound_machine_shows_nothing(sound, capsys, variant):
    assert wrong(capsys, variant) == {}


# the pain, the check that finds it, the link or words that it shows
PAINS = {
    "pins that collide": ("collisions", "tensordict asks for numpy>=2"),
    "flash-attn undefined symbol": ("flash-attn", "flash-attention/issues/931"),
    "transformers 5": ("lock", "vllm/issues/29686"),
    "tensordict ForkingPickler": ("lock", "verl/issues/700"),
    "precompiled wheel": ("source", "vllm/issues/16217"),
    "precompiled wheel of the shell": ("variables", "vllm/issues/13047"),
    "driver too old": ("driver", "525.60.13 or newer"),
    "Ray version": ("lock", "vllm/issues/16622"),
    "Ray of another cluster": ("variables", "vllm/issues/13490"),
    "CPU build": ("CUDA build", "vllm/issues/12525"),
    "CPU build of vLLM": ("CUDA build", "compiled objects"),
    "sdist": ("variables", "vllm/issues/12525"),
    "wake_up out of memory": ("GPU memory", "vllm/issues/13941"),
    "sleep frees nothing": ("variables", "vllm/pull/11743"),
}


def plant(pain, environment, monkeypatch):
    site = environment.site
    match pain:
        case "pins that collide":
            environment.package(
                "tensordict", "0.6.2", "numpy>=2", 'notthere; python_version < "3.9"', "extra-only; extra == 'x'"
            )
        case "flash-attn undefined symbol":
            (site / "flash_attn_2_cuda.cpython-310.so").write_bytes(b"\0" * 5000 + NEW_ABI)
        case "transformers 5":
            environment.package("transformers", "5.20.2")
        case "tensordict ForkingPickler":
            environment.package("tensordict", "0.5.0")
        case "precompiled wheel":
            environment.sealed["packages"]["vllm"]["sha256"] = "0" * 64
            environment.seal()
        case "precompiled wheel of the shell":
            monkeypatch.setenv("VLLM_PRECOMPILED_WHEEL_LOCATION", "/tmp/nightly.whl")
        case "driver too old":
            graphics(monkeypatch, driver="470.82.01")
        case "Ray version":
            environment.package("ray", "2.44.0")
        case "Ray of another cluster":
            monkeypatch.setenv("RAY_ADDRESS", "auto")
        case "CPU build":
            (site / "torch/version.py").write_text("cuda: Optional[str] = None\n")
        case "CPU build of vLLM":
            (site / "vllm/_C.abi3.so").unlink()
        case "sdist":
            monkeypatch.setenv("PIP_NO_BINARY", ":all:")
        case "wake_up out of memory":
            graphics(monkeypatch, used="70000")
        case "sleep frees nothing":
            monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128, expandable_segments: True")


@pytest.mark.parametrize("pain", PAINS)
def test_each_known_pain_is_found_where_it_is_planted_and_alone(sound, monkeypatch, capsys, pain):
    check, words = PAINS[pain]
    variant = "v1" if pain == "precompiled wheel" else "vllm073"
    environment = Environment(choose(variant)) if variant == "v1" else None
    if environment is None:
        shutil.rmtree(sound.prefix)
        environment = Environment(sound)
    assert wrong(capsys, variant) == {}
    plant(pain, environment, monkeypatch)
    found = wrong(capsys, variant)
    assert list(found) == [check] and words in found[check]["said"], found


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128", False),
        ("VLLM_USE_V1", "0", False),  # the recipe's own, in an activated shell
        ("VLLM_USE_V1", "1", True),
        ("VLLM_ATTENTION_BACKEND", "XFORMERS", True),
        ("RAY_ADDRESS", "", False),
        ("PYTHONPATH", "/x", True),
        ("LD_PRELOAD", "/x.so", True),
        ("UV_TORCH_BACKEND", "cpu", True),
        ("UV_TORCH_BACKEND", "cu124", False),
    ],
)
def test_variables(sound, monkeypatch, capsys, name, value, known):
    monkeypatch.setenv(name, value)
    assert ("variables" in wrong(capsys)) == known


def test_what_the_policy_keeps_out_is_what_doctor_warns_of():
    """Each variable that `run` keeps out is told of, but for those that an activated shell has by itself."""
    from verlock.system import process

    told = [each.name for each in surroundings.VARIABLES]
    unspoken = {"VIRTUAL_ENV", "CONDA_PREFIX", "RAY_*"}
    assert {name for name in process.VARIANT.drops if name not in told} == unspoken


def test_libraries_of_a_module(sound, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "cuda"
    folder.mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{folder}:/nonexistent")
    assert wrong(capsys) == {}
    (folder / "libnccl.so.2").touch()
    assert "libnccl.so.2" in wrong(capsys)["libraries"]["said"]


def test_packages_of_the_user_s_own_site(sound, monkeypatch, capsys, tmp_path):
    info = tmp_path / "home/.local/lib/python3.10/site-packages/numpy-2.0.dist-info"
    info.mkdir(parents=True)
    assert "numpy" in wrong(capsys)["user site"]["said"]
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    assert wrong(capsys) == {}


@pytest.mark.parametrize(
    ("capability", "state"), [("9.0", None), ("8.0", None), ("7.5", "warning"), ("6.1", "bad"), ("10.0", "bad")]
)
def test_the_architecture_of_the_gpu(sound, monkeypatch, capsys, capability, state):
    graphics(monkeypatch, capability=capability)
    found = wrong(capsys)
    assert (found["GPUs"]["state"] if found else None) == state
    assert state is None or capability in found["GPUs"]["said"]


@pytest.mark.parametrize(("capability", "known"), [("9.0", True), ("12.0", True), ("13.0", False)])
def test_a_recipe_that_names_its_torch_s_kernels_is_asked(monkeypatch, capability, known):
    subject = SimpleNamespace(chosen=[choose("vllm0240")])
    numbers = tuple(map(int, capability.split(".")))
    found = list(machine._architecture(subject, "NVIDIA X", numbers))
    assert [each.state for each in found] == ([] if known else [findings.BAD])
    assert known or "no kernels for NVIDIA X (compute capability 13.0)" in found[0].said


def test_no_gpu_is_a_warning_and_a_hanging_nvidia_smi_is_bad(sound, monkeypatch, capsys):
    from verlock.errors import NoGpu

    monkeypatch.setattr(gpu, "_said", lambda *arguments: "")
    assert wrong(capsys).keys() == {"driver"}

    def hangs(*arguments):
        raise NoGpu("nvidia-smi did not answer within 10 s", "run it by hand")

    monkeypatch.setattr(gpu, "_said", hangs)
    assert wrong(capsys)["GPUs"]["state"] == "bad"


def test_the_machine_s_own_lacks(sound, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "memory.max")
    (tmp_path / "meminfo").write_text("MemTotal: 500000000 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert wrong(capsys) == {}
    (tmp_path / "memory.max").write_text(f"{8 << 30}\n")
    assert "8.0 GiB" in wrong(capsys)["memory"]["said"]
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: Usage(64 << 20, 0, 10**13))
    assert "64 MiB" in wrong(capsys)["shared memory"]["said"]
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: Usage(10**13, 0, 10**13))
    low = {resource.RLIMIT_NOFILE: (1024, 4096)}
    monkeypatch.setattr(machine.resource, "getrlimit", lambda limit: low.get(limit, (resource.RLIM_INFINITY,) * 2))
    assert "`ulimit -H -n` is 4096" in wrong(capsys)["limits"]["said"]


def test_no_compiler_where_the_engine_needs_one(sound, monkeypatch, capsys):
    monkeypatch.setattr(machine.python_base, "compiler", lambda prefix: None)
    assert wrong(capsys) == {}
    Environment(choose("v1"))
    assert "v1" in wrong(capsys, "v1")["compiler"]["said"]


def test_a_disk_that_is_too_small_for_what_is_not_there_yet(sound, monkeypatch, capsys):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: Usage(10**13, 0, 10**9))
    assert wrong(capsys) == {}
    shutil.rmtree(sound.prefix)
    assert "takes up to 8.0 GB" in wrong(capsys)["disk"]["said"]


def test_two_file_systems(sound, monkeypatch, capsys):
    monkeypatch.setenv("UV_CACHE_DIR", "/dev/shm/verlock-doctor-uv")
    assert "files are copied" in wrong(capsys)["disk"]["said"]


def test_a_file_system_without_locks(sound, monkeypatch, capsys):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(machine.fcntl, "flock", refuse)
    assert "has no locks" in wrong(capsys)["file locks"]["said"]


def test_a_lock_that_changed_since(sound, capsys, edit):
    edit(paths.LOCKS / "vllm073/requirements.txt", "tqdm==", "tqdm==9.")
    assert "changed since" in wrong(capsys)["lock"]["said"]


def test_flash_attention_that_is_missing(sound, capsys):
    (sound.site / "flash_attn_2_cuda.cpython-310.so").unlink()
    found = wrong(capsys)
    assert found["flash-attn"]["state"] == "warning" and "nox -s env-vllm073" in found["flash-attn"]["remedy"]


def test_hosts_that_do_not_answer_are_named_within_a_second(sound, monkeypatch, capsys):
    with socket.socket() as deaf, socket.socket() as closed:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        closed.bind(("127.0.0.1", 0))
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}/x" for each in (deaf, closed)]
        monkeypatch.setattr(
            surroundings, "_of_variant", lambda chosen: [("git host", urls[0], "m"), ("release host", urls[1], "m")]
        )
        monkeypatch.setattr(surroundings, "PATIENCE", 1.0)
        start = time.monotonic()
        said = {each.said for each in surroundings.reached(report.subject("vllm073"))}
        assert time.monotonic() - start < 20  # sockets alone would wait for minutes
    assert any(each.startswith("git host: 127.0.0.1") and "within 1 s" in each for each in said)
    assert any(each.startswith("release host: 127.0.0.1") and "refused" in each for each in said)


def test_the_hosts_of_the_real_variants(clone, monkeypatch):
    for name in ("VERLOCK_CONDA_MIRROR", "VERLOCK_SOURCE_MIRROR", download.PLACE):
        monkeypatch.delenv(name, raising=False)
    asked = {what: url for what, url, _ in surroundings._of_variant(choose("v1"))}
    assert asked.keys() == {"conda channel", "git host", "release host"}
    assert asked["git host"] == choose("v1").recipe.source.url and asked["conda channel"].startswith("https://")
    monkeypatch.setenv("VERLOCK_CONDA_MIRROR", str(clone))
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", str(clone))
    monkeypatch.setenv(download.PLACE, str(clone))
    assert list(surroundings._of_variant(choose("v1"))) == []


def test_a_check_that_hangs_or_breaks_keeps_no_other_from_the_screen(sound):
    over = threading.Event()

    def hangs(subject):
        over.wait(30)
        return []

    def breaks(subject):
        raise KeyError("x")

    checks = [findings.Check(name, look) for name, look in
              {"hangs": hangs, "breaks": breaks, "well": lambda subject: findings.fine("yes")}.items()]  # fmt: skip
    start = time.monotonic()
    answers = findings.ask_all(checks, report.subject("vllm073"), limit=0.3)
    assert time.monotonic() - start < 20
    over.set()
    assert [(each.check, each.state) for each in answers] == [
        ("hangs", "warning"),
        ("breaks", "warning"),
        ("well", "ok"),
    ]


def test_a_broken_recipe_is_named_and_the_others_are_looked_at(sound, clone, edit, capsys):
    edit(clone / "recipes/vllm072/recipe.toml", "summary =", "sumary =")
    found = wrong(capsys, None)
    assert list(found) == ["recipes"] and "recipes/vllm072/recipe.toml" in found["recipes"]["said"]


def test_a_password_of_a_proxy_is_not_shown(sound, monkeypatch, capsys):
    monkeypatch.setenv("https_proxy", "http://me:sesame@127.0.0.1:9")
    cli.main(["doctor", "vllm073"])
    said = capsys.readouterr()
    assert "127.0.0.1:9" in said.out and "sesame" not in said.out + said.err


def test_the_table_shows_the_remedy_and_the_error_names_the_check(sound, capsys):
    shutil.rmtree(sound.site / "ray-2.40.0.dist-info")
    assert cli.main(["doctor", "vllm073"]) == 65
    said = capsys.readouterr()
    assert "ray is missing" in said.out and "nox -s env-vllm073" in said.out and "will go wrong: lock" in said.err


@pytest.mark.parametrize("line", [["--deep"], ["--python", "3.10"]])
def test_what_is_about_one_variant_needs_its_name(line, capsys):
    assert cli.main(["doctor", *line]) == 2


def test_deep_without_an_environment(clone, capsys):
    assert cli.main(["doctor", "vllm073", "--deep"]) == 40


@pytest.mark.parametrize(("code", "state"), [("print('all well')", "ok"), ("raise ImportError('symbol _ZN3c10')", "bad"),
                                             ("print()", "bad")])  # fmt: skip
def test_a_probe_of_deep(sound, monkeypatch, code, state):
    bin_folder = sound.prefix / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").symlink_to(sys.executable)
    launcher.write(sound.prefix, {})
    monkeypatch.setattr(deep, "PROBES", (deep.Probe("x", code, "do {name}"), deep.Probe("y", code, "", "flash-attn")))
    monkeypatch.setattr(deep, "_requirements", lambda chosen: "met")
    environment = {**json.loads((sound.prefix / receipt.NAME).read_text()), "missing": {"flash-attn": "no network"}}
    receipt.write(sound.prefix, environment)
    requirements, found = deep.look(sound)
    assert (requirements.state, found.state) == ("ok", state)
    assert state == "ok" or found.remedy == "do vllm073"
    assert "_ZN3c10" not in code or "_ZN3c10" in found.said


def test_doctor_imports_neither_torch_nor_anything_of_the_environment():
    code = "import sys, verlock.env.doctor.report\nassert not {'torch', 'ray', 'requests', 'rich'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT)


def test_every_known_package_is_one_that_locks_pin():
    from verlock.variant import chosen

    pinned = {pin.name for name in chosen.names() for pin in choose(name).pins}
    assert set(inside.KNOWN) <= pinned

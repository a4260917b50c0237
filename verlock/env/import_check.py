"""Step six of `create`: dependencies consistent, compiled objects load, key imports work, versions as locked.

What depends on this machine is tried every time: whether the compiled objects of torch and vLLM find all their symbols takes
a second. What depends on nothing but the installed bytes is proven once: importing everything takes 15 to 20 s without byte
code, and is left out when this machine did it before, or a certificate in the clone shows that it ran on a GPU, for the same
digest on the same base and interpreter with the same artefacts missing and the same site wheels.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from verlock import paths
from verlock.env import installed
from verlock.errors import CheckFailed
from verlock.system import files, process, uv
from verlock.variant import certificate, lockfiles, record
from verlock.variant.chosen import Chosen
from verlock.variant.receipt import Ran

# torch's libraries first, which bring those of CUDA that vLLM's objects look for, with all their symbols resolved; then every
# compiled object of vLLM, but for extension modules of other Pythons, which this one never loads. Importing torch would do the
# same and compile a thousand of its files beside. Some libraries of CUDA only torch's Python code finds, in the same place as
# here. Objects that link the driver itself (libcuda.so.1) can only be tried where there is one.
_LOAD = """
import ctypes, glob, importlib.util, os, sysconfig
torch, vllm = (importlib.util.find_spec(name).submodule_search_locations[0] for name in ("torch", "vllm"))
site, own = sysconfig.get_paths()["purelib"], sysconfig.get_config_var("EXT_SUFFIX")

def load(path):
    try:
        return ctypes.CDLL(path, mode=os.RTLD_NOW | ctypes.RTLD_GLOBAL * path.startswith(torch))
    except OSError as error:
        return error

def found(path):
    answer = load(path)
    missing, _, why = str(answer).partition(": ")
    if why.startswith("cannot open shared object file") and missing != "libcuda.so.1":
        for library in glob.glob(f"{site}/nvidia/**/{missing}", recursive=True):
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        answer = load(path)
    if not isinstance(answer, OSError):
        return 1
    if "libcuda.so.1: cannot open" in str(answer):
        return 0
    raise SystemExit(f"{os.path.relpath(path, site)}: {answer}")

for name in ("libtorch_global_deps", "libtorch_python"):
    found(f"{torch}/lib/{name}.so")
of_vllm = sorted(glob.glob(f"{vllm}/**/*.so", recursive=True))  # an editable one is outside the environment
of_vllm = [path for path in of_vllm if ".cpython-" not in os.path.basename(path) or path.endswith(own)]
print("VERLOCK", sum(map(found, of_vllm + glob.glob(f"{site}/flash_attn_2_cuda*.so"))))
"""
_NEWER_SYSTEM = re.compile(r"version .(GLIBC|GLIBCXX|CXXABI)_\S+ not found")
# Beside the three: every import of verl's trainer that each of its runs reaches, those inside its functions too (a module
# that is missing there is found when training starts, else). What stands in an `if` or `try` is for some runs only.
_IMPORT = """
import ast, importlib

def load(name, package=None):
    try:
        return importlib.import_module(name, package)
    except Exception as error:
        raise SystemExit(f"{name}: {type(error).__name__}: {error}")

def reached(body):
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.With)):
            yield from reached(node.body)

torch, vllm, verl, main_ppo = map(load, ("torch", "vllm", "verl", "verl.trainer.main_ppo"))
with open(main_ppo.__file__, encoding="utf-8") as file:
    tree = ast.parse(file.read())
for node in reached(tree.body):
    if isinstance(node, ast.Import):
        for each in node.names:
            load(each.name)
    else:
        module = load("." * node.level + (node.module or ""), main_ppo.__package__)
        for each in node.names:
            if not hasattr(module, each.name):
                load(f"{module.__name__}.{each.name}")
print("VERLOCK", vllm.__version__, verl.__version__, torch.__version__)
"""


def run(
    chosen: Chosen,
    ran: Ran,
    site_wheels: Mapping[str, Mapping[str, str]] | None = None,
    whole: Callable[[], bool] = lambda: True,
) -> str:
    """Check an environment that is all but sealed; returns what was found, for people.

    Args:
        chosen: which environment.
        ran: what else, beside its digest, decides whether an earlier proof is one for this environment.
        site_wheels: the receipt's entry, so that a failure of the user's own wheel is said to be one.
        whole: waits for the hashes; where it says False the imports prove nothing for later runs.

    Raises:
        InstallError: requirements of installed packages are not met.
        CheckFailed: compiled objects do not load, imports fail, or versions are not those of the recipe.
    """
    with ThreadPoolExecutor(1) as beside:  # both mostly wait
        aside = [(lockfiles.normalise(each.requirer), each.requirement) for each in chosen.recipe.override]
        consistent = beside.submit(uv.check, chosen.interpreter, aside)
        try:
            (loaded,) = _ask(chosen, _LOAD, "the compiled objects of torch and vllm do not load")
        except CheckFailed as error:
            raise _of_site_wheel(chosen, error, site_wheels or {}) from None
        consistent.result()
    editable = bool(
        ran.editable
    )  # whatever was proven, files may have changed since: tried every time, and proof of nothing
    rest = f"{files.sha256(chosen.interpreter.resolve())} {ran}"
    proof = paths.cache_dir() / "imports" / f"{chosen.digest}-{hashlib.sha256(rest.encode()).hexdigest()[:16]}"
    if proof.exists() and not editable:
        return f"{loaded} compiled objects load; imports proven on this machine before"
    if not editable and (certificate := _certificate(chosen, ran)):
        return f"{loaded} compiled objects load; imports proven by {certificate}"
    vllm, verl, torch = _ask(chosen, _IMPORT, "importing torch, vllm and what verl's trainer imports fails")
    got = {"vllm": vllm, "verl": verl}
    wanted = {"vllm": chosen.recipe.vllm.version, "verl": chosen.recipe.verl.version}
    if any(got[name] != wanted[name] for name in wanted.keys() - set(ran.editable)):
        raise CheckFailed(f"the environment has {got}, the recipe names {wanted}", "lock again: `nox -s lock`")
    if whole() and not editable:
        proof.parent.mkdir(parents=True, exist_ok=True)
        proof.touch()
    return f"vllm {vllm}, verl {verl} and its trainer, torch {torch} import"


def _of_site_wheel(chosen: Chosen, error: CheckFailed, site_wheels: Mapping[str, Mapping[str, str]]) -> CheckFailed:
    """The error that names the site wheel to whose file the failure belongs; `error` itself where it is none's."""
    last = error.problem.splitlines()[-1].strip()
    path, _, reason = last.partition(": ")
    for package, entry in site_wheels.items():
        if path in _recorded(chosen, package):
            torch = chosen.recipe.torch
            wanted = f"for torch {torch.version} with cxx11abi {str(torch.cxx11abi).upper()} and Python {chosen.python}"
            if _NEWER_SYSTEM.search(reason):
                wanted = "on a system whose C and C++ libraries are no newer than this one's"
            return CheckFailed(
                f"the site wheel of {package} does not load here: {entry['file']}\n    {path}: {reason}",
                f"it must be built {wanted}; nothing was sealed, and `--site-wheel none` goes back to the locked artefacts",
            )
    return error


def _recorded(chosen: Chosen, package: str) -> set[str]:
    """The files of an installed package, relative to site-packages."""
    _, folder = installed.packages(chosen.site)[package]
    with (folder / record.NAME).open(encoding="utf-8", newline="") as file:
        return {row.path for row in record.rows(file)}


def _ask(chosen: Chosen, code: str, failure: str) -> list[str]:
    """Run `code` in the environment; the words behind VERLOCK on its last such line."""
    variables = process.VARIANT.environment(**chosen.recipe.vllm.environment)
    done = subprocess.run(
        [chosen.interpreter, "-I", "-c", code], capture_output=True, text=True, check=False, cwd="/", env=variables
    )
    answer = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("VERLOCK ")]
    if done.returncode or not answer:
        raise CheckFailed(
            f"{failure}\n{process.tail(done.stderr, 12)}",
            "nothing was sealed; if the system is a supported one, please report this",
        )
    return answer[-1]


def _certificate(chosen: Chosen, ran: Ran) -> str | None:
    """The name of a certificate for exactly this digest and combination."""
    for path in sorted((paths.CERTIFICATES / chosen.name).glob("*.json")):
        try:
            content = certificate.of(json.loads(path.read_text(encoding="utf-8")))
            sealed = content["receipt"]
            shown = Ran.of(sealed["base"], sealed["missing"], sealed.get("site_wheels"), sealed.get("editable") or ())
            same = content["digest"] == chosen.digest and shown == ran
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            continue
        if same:
            return f"certificates/{chosen.name}/{path.name}"
    return None

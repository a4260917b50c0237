"""`verlock build-flash-attn`: flash-attn's wheel from its locked sdist, for GPUs and versions that no released wheel is for.

The build runs in the variant's environment, since setup.py imports torch, and with a CUDA compiler of the site. Its folder stays
in the cache until the wheel is whole, so that a build that was cut off goes on where it was; ninja knows which objects are done.
The wheel is one of the user's own: `--site-wheel` installs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verlock import console, paths
from verlock.errors import BuildError, CompilerMissing, NetworkError, RecipeError, ResolutionError
from verlock.sources import wheel_store
from verlock.system import download, files, gpu, process
from verlock.variant import receipt
from verlock.variant.chosen import Chosen
from verlock.variant.recipe import ArtefactSdist

PACKAGE = "flash-attn"
HEAD_DIMS = (32, 64, 96, 128, 192, 256)  # those that 2.8.3 has kernels for, csrc/flash_attn/src
DTYPES = ("fp16", "bf16")
_KERNEL = re.compile(r"flash_(?:fwd|fwd_split|bwd)_hdim(\d+)_(fp16|bf16)_(?:causal_)?sm80\.cu")
_FUNCTION = re.compile(r"^(?:template\s*<>\s*|template\s+)void\s+(run_mha_\w+<[^>]+>\s*\([^)]*\))", re.MULTILINE)
_DECLARED = re.compile(r"^(template<[^>]+>\s*void\s+(run_mha_\w+)\s*\([^)]*\));", re.MULTILINE)
_RELEASE = re.compile(r"release (\d+\.\d+)")
_NINJA = re.compile(r"^\[(\d+)/(\d+)\]")
_TOOLS = Path(sys.executable).parent
_JOB = 3 << 30  # bytes; nvcc takes 2 GB for one of these kernels and one architecture


@dataclass(frozen=True)
class Options:
    """What to build. Empty fields mean all of them; for `archs` those of this machine's GPUs."""

    archs: Sequence[str] = ()  # compute capabilities, such as 9.0
    head_dims: Sequence[int] = ()
    dtypes: Sequence[str] = ()
    jobs: int = 0

    @property
    def partial(self) -> bool:
        """Are kernels left out?"""
        return set(self.head_dims or HEAD_DIMS) < set(HEAD_DIMS) or set(self.dtypes or DTYPES) < set(DTYPES)

    def keeps(self, head_dim: int, dtype: str) -> bool:
        """Is the kernel for this head size and type asked for?"""
        return head_dim in (self.head_dims or HEAD_DIMS) and dtype in (self.dtypes or DTYPES)


def run(chosen: Chosen, options: Options) -> int:
    """Build the wheel, unless it is built already, and say how to install it. Returns 0.

    Raises:
        NotSealed: the variant's environment is not made yet.
        RecipeError: the recipe names no sdist of flash-attn.
        CompilerMissing: there is no nvcc of the recipe's CUDA version.
        BuildError: setup.py fails; what was compiled is kept.
        NetworkError, IntegrityError: the sdist cannot be fetched, or is another file.
    """
    receipt.read(chosen.prefix)
    artefact = next((each for each in chosen.recipe.artefact if each.package == PACKAGE and each.sdist), None)
    if artefact is None or artefact.sdist is None:
        raise RecipeError(f"the recipe of {chosen.name} names no sdist of {PACKAGE}", "use a wheel made for its torch")
    nvcc = compiler(chosen.recipe.cuda.version)
    if not _TOOLS.joinpath("ninja").exists():
        raise CompilerMissing(
            "ninja is not installed beside verlock", f"run `nox -s build-flash-attn -- {chosen.name}`"
        )
    archs = tuple(options.archs) or gpu.compute_capabilities()
    if not archs:
        raise RecipeError(
            "there is no GPU here to build for", "name one with `--arch 9.0` (H100, H200), `--arch 8.0` (A100)"
        )
    options = Options(
        tuple(sorted(archs)), tuple(sorted(options.head_dims)), tuple(sorted(options.dtypes)), options.jobs
    )
    found = built(chosen, options)
    if found is None:
        found = _build(chosen, options, _sdist(artefact.sdist), nvcc)
    console.say(f"{PACKAGE} is built: {found}\n  install it with `nox -s env-{chosen.name} -- {taken(found)}`")
    return 0


def taken(wheel: Path) -> str:
    """The option of `env` that takes a wheel built here."""
    return f"--site-wheel {PACKAGE}={shlex.quote(str(wheel))}"


def compiler(version: str) -> Path:
    """The nvcc of a CUDA version such as "12.4": in CUDA_HOME, else on PATH. Raises CompilerMissing.

    The minor version counts too: torch's headers and the kernels' code are tried with that one alone.
    """
    remedy = (
        f"load your site's module of CUDA {version}, or name its folder in CUDA_HOME "
        f"(conda-forge has it: conda create -p cuda -c conda-forge cuda-toolkit={version})"
    )
    home = os.environ.get("CUDA_HOME")
    named = str(Path(home) / "bin" / "nvcc") if home else shutil.which("nvcc")
    if not named or not os.access(named, os.X_OK):
        raise CompilerMissing(f"there is no nvcc {'in ' + home if home else 'on PATH'}", remedy)
    done = subprocess.run([named, "--version"], capture_output=True, text=True, check=False)
    release = _RELEASE.search(done.stdout)
    if release is None or release[1] != version:
        raise CompilerMissing(
            f"{named} is CUDA {release[1] if release else 'of no known version'}, not {version}", remedy
        )
    return Path(named)


def built(chosen: Chosen, options: Options | None = None) -> Path | None:
    """The wheel that was built here for a variant's torch and Python, or None; any of them where no `options` are given."""
    folder = wheel_store.root() / "built"
    if not folder.is_dir():  # asked at each `env` that lacks flash-attn: the locks are not read for nothing
        return None
    pattern = f"{_name(chosen)}-{_key(options) if options else '*'}.json"
    for entry in sorted(folder.glob(pattern)):
        try:
            content = json.loads(entry.read_text(encoding="utf-8"))
            found = wheel_store.cached(content["filename"], content["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found is not None:
            return found
    return None


def _name(chosen: Chosen) -> str:
    """What the compiled code is bound to: version, torch and Python."""
    torch = next(pin.version for pin in chosen.pins if pin.name == "torch")
    version = next((each.version for each in chosen.recipe.artefact if each.package == PACKAGE), "")
    return f"{PACKAGE}-{version}-torch{torch}-py{chosen.python}"


def _key(options: Options) -> str:
    text = json.dumps([list(options.archs), list(options.head_dims), list(options.dtypes)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sdist(wanted: ArtefactSdist) -> Path:
    """The sdist: from the cache, VERLOCK_ARTEFACTS or the user's index."""
    from verlock.locking.loopback_index import serve

    if found := wheel_store.kept(wanted.filename, wanted.sha256):
        return found
    remedy = f"put the file into a folder and name that folder in {download.PLACE}"
    with serve() as index, wheel_store.scratch("sdist") as work, console.step("download", wanted.filename) as step:
        try:
            places = [file.url for file in index.files(PACKAGE) if file.sha256 == wanted.sha256]
        except ResolutionError:
            raise NetworkError(
                "the index has no JSON pages, in which files are found by their sha256", remedy
            ) from None
        if not places:
            raise NetworkError(f"the index has no {wanted.filename} with the sha256 of the recipe", remedy)
        draft = work / wanted.filename
        download.fetch_first(
            places, draft, wanted.sha256, lambda text: setattr(step, "detail", f"{wanted.filename}, {text}")
        )
        return wheel_store.keep(draft, wanted.sha256)


def _build(chosen: Chosen, options: Options, sdist: Path, nvcc: Path) -> Path:
    work = paths.cache_dir() / "builds" / f"{_name(chosen)}-{_key(options)}"
    work.parent.mkdir(parents=True, exist_ok=True)
    with files.alone(work.with_name(f".{work.name}.lock"), str(work)):
        if found := built(chosen, options):
            return found
        source = work / "source"
        if not source.exists():
            _unpack(sdist, source, options)
        _compile(chosen, options, source, nvcc, work / "build.log")
        (wheel,) = (source / "dist").glob("*.whl")
        kept = wheel_store.keep(wheel, files.sha256(wheel))
        entry = {"filename": kept.name, "sha256": kept.parent.name}
        files.write_whole(wheel_store.root() / "built" / f"{_name(chosen)}-{_key(options)}.json", json.dumps(entry))
        shutil.rmtree(work)
    return kept


def _unpack(sdist: Path, into: Path, options: Options) -> None:
    """Unpack a verified sdist, without the kernels that are not asked for; `into` is there only when that is done."""
    draft = into.with_name(".unpacking")
    shutil.rmtree(draft, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(draft)  # its sha256 is the recipe's
    (top,) = draft.iterdir()
    if left_out := leave_out(top, options):
        console.warn(f"{left_out} kernels are left out: flash-attn will raise an error where one of them is needed")
    top.rename(into)
    draft.rmdir()


def leave_out(source: Path, options: Options) -> int:
    """Replace the kernels that are not asked for by functions that throw; returns how many.

    Raises BuildError where a kernel's file has another form than this version's.
    """
    count = 0
    header = source / "csrc/flash_attn/src/flash.h"
    text = header.read_text(encoding="utf-8") if header.exists() else ""
    declared = {found[2]: found[1] for found in _DECLARED.finditer(text)}
    for path in sorted((source / "csrc/flash_attn/src").glob("*.cu")):
        named = _KERNEL.fullmatch(path.name)
        if named is None:
            raise BuildError(f"{path.name} is no kernel file as flash-attn 2.8 has them", "build all kernels")
        if options.keeps(int(named[1]), named[2]):
            continue
        functions = _FUNCTION.findall(path.read_text(encoding="utf-8"))
        if len(functions) != 1:
            raise BuildError(f"{path.name} defines {len(functions)} kernels, not one", "build all kernels")
        name = functions[0].partition("<")[0]
        if name not in declared:
            raise BuildError(f"flash.h does not declare {name}, which {path.name} defines", "build all kernels")
        path.write_text(
            _LEFT_OUT.format(declared=declared[name], function=functions[0], what=f"head size {named[1]}, {named[2]}"),
            encoding="utf-8",
        )
        count += 1
    return count


# It declares what its name is made of, as flash.h and CUTLASS do, and includes neither: with their headers nvcc takes 14 s of CPU
# for such a file, without them 3 s, and the symbol is the same.
_LEFT_OUT = """\
#include <stdexcept>
#include "namespace_config.h"

namespace cutlass {{
struct half_t;
struct bfloat16_t;
}}

namespace FLASH_NAMESPACE {{
struct Flash_fwd_params;
struct Flash_bwd_params;
{declared};
template<> void {function} {{ throw std::runtime_error("flash-attn was built without the kernels for {what}"); }}
}}
"""


def jobs() -> int:
    """How many kernels to compile at once: as many as there are cores, and memory for them."""
    available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    memory = int(available[1]) * 1024 if available else _JOB
    return max(1, min(len(os.sched_getaffinity(0)), memory // _JOB))


def _compile(chosen: Chosen, options: Options, source: Path, nvcc: Path, log: Path) -> None:
    """Run setup.py, show how far it is, and leave what it said in `log`. Raises BuildError."""
    local = f"cu{chosen.recipe.cuda.version.replace('.', '')}torch{chosen.recipe.torch.version}"
    tools = [_TOOLS, nvcc.parent, os.defpath]
    variables = process.BUILD.environment(
        PATH=os.pathsep.join(map(str, tools)),
        CUDA_HOME=str(nvcc.parent.parent),
        FLASH_ATTENTION_FORCE_BUILD="TRUE",  # else it looks for a released wheel first
        FLASH_ATTN_CUDA_ARCHS=";".join(arch.replace(".", "") for arch in options.archs),
        FLASH_ATTN_LOCAL_VERSION=f"{local}.partial" if options.partial else local,
        NVCC_THREADS="1",
        MAX_JOBS=str(options.jobs or jobs()),
    )
    with (
        console.step("build", f"{PACKAGE} for {', '.join(options.archs)}; its output is in {log}") as step,
        log.open("w", buffering=1) as out,
    ):
        child = subprocess.Popen(
            process.bound([chosen.interpreter, "setup.py", "bdist_wheel"]), start_new_session=True,
            cwd=source, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        assert child.stdout is not None
        try:
            for line in child.stdout:
                out.write(line)
                if done := _NINJA.match(line):
                    step.detail = f"{done[1]} of {done[2]} files compiled"
        except BaseException:  # Ctrl-C: ninja and its compilers go too, or a second run would meet them
            os.killpg(child.pid, signal.SIGTERM)
            raise
        finally:
            child.wait()
    if child.returncode:
        raise BuildError(f"flash-attn's setup.py fails\n{process.tail(log, 12)}", "run again: what is compiled is kept")

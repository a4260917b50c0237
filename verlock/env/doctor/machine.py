"""Checks of the machine: GPUs and their driver, the system, disks, memory, limits, a compiler."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from verlock import paths
from verlock.env import preflight, python_base
from verlock.env.doctor.findings import BAD, OK, WARNING, Check, Finding, Subject, fine, of_error
from verlock.errors import NoGpu, VerlockError
from verlock.system import files, gpu, uv

GIB = 1 << 30
SHARED_MEMORY = Path("/dev/shm")
MEMORY = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup/memory.max")

# The newest compute capability that wheels of a CUDA version have code for; a GPU of a later generation finds none. Asked where
# a recipe does not name its torch's own.
# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/ and https://github.com/pytorch/pytorch/blob/main/RELEASE.md
NEWEST = {"12.4": (9, 0), "12.6": (9, 0), "12.8": (12, 0), "12.9": (12, 1), "13.0": (12, 1)}
OLDEST = (7, 0)  # https://docs.vllm.ai/en/v0.7.3/getting_started/installation/gpu/index.html
FLASH_ATTENTION = (8, 0)  # https://github.com/Dao-AILab/flash-attention#cuda
LEFT_OVER = 1024  # MiB that a GPU without a job may have in use: the driver's own, a display

LEAST_MEMORY = (
    16 * GIB
)  # sleep keeps the weights in memory, 2 bytes a parameter: 14 GiB for the smallest common model of 7 B
LEAST_SHARED = GIB  # Ray's objects and NCCL's buffers; a container gets 64 MiB unless it asks
LEAST_FILES = 8192  # what ray/_private/worker.py recommends; it raises the soft limit up to the hard one by itself
LEAST_PROCESSES = 4096  # Ray starts a process a core and a few threads for each, vLLM and NCCL more


def system(subject: Subject) -> Iterable[Finding]:
    """Linux on x86-64 with a glibc that is new enough."""
    for chosen in subject.chosen:
        preflight.system(chosen.recipe)
    return fine("Linux on x86-64, glibc is new enough")


def driver(subject: Subject) -> Iterable[Finding]:
    """The GPUs that a run may use, and whether their driver is new enough for the CUDA of each variant."""
    version = gpu.driver()
    if version is None:
        yield Finding(
            WARNING,
            "no NVIDIA GPU here, or no driver",
            "environments are made and verified without one; the smoke run and training need a machine with a GPU",
        )
        return
    refused = []
    for chosen in subject.chosen:
        try:
            preflight.check_driver(chosen.recipe, version)
        except VerlockError as error:
            refused.append(of_error(error))
    yield from refused or fine(f"driver {version}, new enough")


def gpus(subject: Subject) -> Iterable[Finding]:
    """What CUDA_VISIBLE_DEVICES leaves, and whether the wheels have code for it."""
    try:
        found = gpu.find()
    except NoGpu as error:
        return [of_error(error)]
    if found is None:
        return fine("none")
    wrong = [
        each
        for text in gpu.compute_capabilities()
        for each in _architecture(subject, found.name, tuple(int(part) for part in text.split(".")))
    ]
    return wrong or fine(f"{found.count} x {found.name}, {found.memory_mib / 1024:.0f} GiB each")


def _architecture(subject: Subject, name: str, capability: tuple[int, ...]) -> Iterable[Finding]:
    shown = ".".join(map(str, capability))
    if capability < OLDEST:
        yield Finding(BAD, f"{name} has compute capability {shown}, vLLM begins at 7.0", "use a newer GPU")
    elif capability < FLASH_ATTENTION:
        yield Finding(
            WARNING,
            f"{name} has compute capability {shown}: flash-attn and bfloat16 begin at 8.0",
            "use a newer GPU, or attn_implementation=sdpa and float16",
        )
    for chosen in subject.chosen:
        if chosen.recipe.torch.capabilities:
            try:
                preflight.check_gpus(chosen.recipe, [(name, shown)])
            except VerlockError as error:
                yield of_error(error)
            continue
        newest = NEWEST.get(chosen.recipe.cuda.version)
        if newest and capability > newest:
            yield Finding(
                BAD,
                f"{name} has compute capability {shown}, the wheels of {chosen.name} (CUDA {chosen.recipe.cuda.version}) "
                f"have code up to {newest[0]}.{newest[1]}",
                "use a variant of a newer CUDA, or an older GPU",
            )


def gpu_memory(subject: Subject) -> Iterable[Finding]:
    """GPU memory that somebody else holds: what sleep gave back may not be there at wake_up."""
    used = [(index, mib) for index, mib in enumerate(gpu.used_mib()) if mib > LEFT_OVER]
    return [
        Finding(
            WARNING,
            f"GPU {index} has {mib / 1024:.1f} GiB in use already: wake_up runs out of memory where others took what sleep gave "
            "(https://github.com/vllm-project/vllm/issues/13941)",
            "`nvidia-smi` names the processes: end what is left over, or lower gpu_memory_utilization",
        )
        for index, mib in used
    ] or fine("nothing else is in the GPUs' memory")


def disk(subject: Subject) -> Iterable[Finding]:
    """Room for the environment and for uv's cache, and whether both are on one file system, so that files can be linked."""
    place, cache = preflight.existing(paths.envs_dir()), preflight.existing(uv.cache())
    for chosen in subject.chosen if subject.named else ():
        if chosen not in subject.built:
            try:
                preflight.disk(chosen)
            except VerlockError as error:
                yield of_error(error)
    if place.stat().st_dev != cache.stat().st_dev:
        yield Finding(
            WARNING,
            f"{place} and uv's cache {cache} are on two file systems: files are copied, not linked (7 GB more an environment)",
            "name a folder on the same one in UV_CACHE_DIR or VERLOCK_ENVS",
        )
    yield Finding(
        OK,
        f"{shutil.disk_usage(place).free / 1e9:.0f} GB free at {place}, {shutil.disk_usage(cache).free / 1e9:.0f} GB at {cache}",
    )


def file_locks(subject: Subject) -> Iterable[Finding]:
    """File locks where environments and caches are: two runs at once keep out of each other's way with them."""
    for place in dict.fromkeys(map(preflight.existing, (paths.envs_dir(), paths.cache_dir()))):
        if not os.access(place, os.W_OK):
            yield Finding(
                WARNING,
                f"{place} is not writable for you",
                "use what is there, or name folders of yours in VERLOCK_ENVS and VERLOCK_CACHE",
            )
            continue
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in files.NO_LOCKS:
                raise
            yield Finding(
                WARNING,
                f"the file system of {place} has no locks: two runs at once would damage each other's work",
                "let one run at a time work there, or name folders on another file system in VERLOCK_ENVS and VERLOCK_CACHE",
            )
        else:
            yield Finding(OK, f"{place} has them")


def memory(subject: Subject) -> Iterable[Finding]:
    """The machine's memory, or what the container may have of it."""
    total = (
        int(next(line for line in MEMORY.read_text().splitlines() if line.startswith("MemTotal:")).split()[1]) * 1024
    )
    allowed = CGROUP.read_text().strip() if CGROUP.exists() else "max"
    total = min(total, int(allowed)) if allowed.isdecimal() else total
    if total < LEAST_MEMORY:
        return [
            Finding(
                WARNING,
                f"{total / GIB:.1f} GiB of memory: sleep mode keeps the engine's weights there, 14 GiB for a model of 7 B",
                "ask the scheduler or the container for more (`--mem`, `--memory`)",
            )
        ]
    return fine(f"{total / GIB:.0f} GiB")


def shared_memory(subject: Subject) -> Iterable[Finding]:
    """/dev/shm, where Ray keeps its objects and NCCL its buffers."""
    size = shutil.disk_usage(SHARED_MEMORY).total
    if size < LEAST_SHARED:
        return [
            Finding(
                WARNING,
                f"{SHARED_MEMORY} has {size >> 20} MiB: Ray becomes slow, and NCCL or data loaders die with a bus error",
                "start the container with `--shm-size=16g` or `--ipc=host`",
            )
        ]
    return fine(f"{size / GIB:.0f} GiB")


# limit, what `ulimit` calls it, the least that does, whether the hard limit counts (Ray raises the other), what goes wrong below
_LIMITS = (
    (resource.RLIMIT_NOFILE, "-n", LEAST_FILES, True, "Ray opens a file for each connection"),
    (resource.RLIMIT_NPROC, "-u", LEAST_PROCESSES, False, "Ray and vLLM start many threads"),
    (resource.RLIMIT_AS, "-v", resource.RLIM_INFINITY, False, "CUDA reserves more addresses than there is memory"),
)


def limits(subject: Subject) -> Iterable[Finding]:
    """The limits of this shell, which whatever it starts inherits."""
    for limit, option, least, hard, why in _LIMITS:
        value = resource.getrlimit(limit)[1 if hard else 0]
        if value != resource.RLIM_INFINITY and (least == resource.RLIM_INFINITY or value < least):
            wanted = "unlimited" if least == resource.RLIM_INFINITY else least
            yield Finding(
                WARNING,
                f"`ulimit {'-H ' if hard else ''}{option}` is {value}: {why}",
                f"raise it to {wanted}: in /etc/security/limits.conf, the container's --ulimit, or the scheduler's settings",
            )
    yield Finding(OK, f"{resource.getrlimit(resource.RLIMIT_NOFILE)[1]} open files at most")


def compiler(subject: Subject) -> Iterable[Finding]:
    """A C compiler, where the engine compiles kernels at run time."""
    needing = [chosen for chosen in subject.chosen if chosen.recipe.vllm.compiles]
    without = [chosen.name for chosen in needing if not python_base.compiler(chosen.prefix)]
    if without:
        return [
            Finding(
                WARNING,
                f"no C compiler (cc, gcc): the engine of {', '.join(without)} compiles kernels at run time",
                "install one, load the cluster's module of it, or use `--base conda`, which brings one",
            )
        ]
    return fine("there is one" if needing else "not needed")


CHECKS = (
    Check("system", system),
    Check("driver", driver),
    Check("GPUs", gpus),
    Check("GPU memory", gpu_memory),
    Check("disk", disk),
    Check("file locks", file_locks),
    Check("memory", memory),
    Check("shared memory", shared_memory),
    Check("limits", limits),
    Check("compiler", compiler),
)

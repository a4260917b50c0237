"""The NVIDIA GPUs of this machine and their driver, as the kernel and nvidia-smi name them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard
from xml.etree import ElementTree

from verlock.errors import NoGpu

_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
_PATIENCE = 10  # seconds that nvidia-smi may take: it hangs where a GPU fell off the bus

_VERSION = re.compile(r"\b\d{3,}\.\d+(\.\d+)?\b")
_LISTED_GPU = re.compile(r"GPU \d+: .*\(UUID: (?P<uuid>[^)\s]+)\)")
_LISTED_SLICE = re.compile(r"\s+MIG (?P<profile>\S+)\s+Device\s+(?P<number>\d+): \(UUID: (?P<uuid>[^)\s]+)\)")


@dataclass(frozen=True)
class Gpus:
    """The GPUs that a run may use; `memory_mib` is that of one."""

    name: str
    count: int
    memory_mib: int
    driver: str


@dataclass(frozen=True)
class _Row:
    """A whole GPU, as nvidia-smi tells of it."""

    index: str
    uuid: str
    name: str
    memory: str
    driver: str
    mig: str  # Enabled, Disabled or [N/A]


def driver() -> str | None:
    """The driver's version, such as "580.159.04", or None where there is no GPU, or nvidia-smi does not answer."""
    try:
        text = _KERNEL_DRIVER.read_text()
    except OSError:
        text = ""
    if match := _VERSION.search(text):
        return match[0]
    with contextlib.suppress(NoGpu):
        if (rows := _ask("driver_version")) and (match := _VERSION.fullmatch(rows[0][0])):
            return match[0]
    return None


def find() -> Gpus | None:
    """What nvidia-smi shows, cut down to CUDA_VISIBLE_DEVICES; None where there is no GPU.

    Name, memory and driver are those of the first one that is left. Indices are taken as nvidia-smi counts: CUDA counts so with
    CUDA_DEVICE_ORDER=PCI_BUS_ID. A MIG slice that is named first is one GPU of the slice's memory, and the only one, whatever
    else is named: a CUDA process sees one slice
    (https://docs.nvidia.com/datacenter/tesla/mig-user-guide/index.html#device-enumeration).

    Raises:
        NoGpu: nvidia-smi hangs, or does not tell the memory; or slices are named together with whole GPUs, or not by name.
    """
    rows, entries = _rows(), _entries()
    if rows and _is_slice(entries):
        return _slice(rows, entries[0])
    seen = _visible(rows, entries)
    if not seen:
        return None
    if divided := [row for row in seen if row.mig == "Enabled"]:
        raise NoGpu(
            f"GPU {divided[0].index} ({divided[0].name}) is divided into MIG slices",
            "name one of them in CUDA_VISIBLE_DEVICES, as `nvidia-smi -L` lists it (MIG-...); nothing was tested",
        )
    first = seen[0]
    return Gpus(first.name, len(seen), _mib(first.name, first.memory), first.driver)


def indices() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, by index as nvidia-smi counts (CUDA's PCI_BUS_ID order); none for a MIG slice.

    Raises NoGpu.
    """
    entries = _entries()
    return [] if _is_slice(entries) else [row.index for row in _visible(_rows(), entries)]


def uuid() -> str:
    """The UUID of the first GPU that CUDA_VISIBLE_DEVICES leaves, or of the MIG slice that it names; empty where there is none.

    Raises NoGpu.
    """
    entries = _entries()
    if _is_slice(entries):
        return entries[0]
    seen = _visible(_rows(), entries)
    return seen[0].uuid if seen else ""


def compute_capabilities() -> tuple[str, ...]:
    """Those of the GPUs here, such as ("9.0",); none where there is no GPU. Raises NoGpu where nvidia-smi hangs."""
    return tuple(sorted({row[0] for row in _ask("compute_cap")}))


def names_and_capabilities() -> list[tuple[str, str]]:
    """Name and compute capability of each GPU here, such as ("NVIDIA H100 80GB HBM3", "9.0"); none where nvidia-smi hangs."""
    with contextlib.suppress(NoGpu):
        return [(name, capability) for name, capability in _ask("name,compute_cap")]
    return []


def used_mib() -> tuple[int, ...]:
    """The memory that is in use on each GPU, in MiB, by whomever; none without a GPU. Raises NoGpu where nvidia-smi hangs."""
    return tuple(int(row[0]) for row in _ask("memory.used") if row[0].isdecimal())


def _rows() -> list[_Row]:
    return [_Row(*row) for row in _ask("index,uuid,name,memory.total,driver_version,mig.mode.current")]


def _entries() -> list[str] | None:
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if wanted is None else [entry.strip() for entry in wanted.split(",")]


def _is_slice(entries: list[str] | None) -> TypeGuard[list[str]]:
    return bool(entries and entries[0].startswith("MIG-"))


def _visible(rows: list[_Row], entries: list[str] | None) -> list[_Row]:
    """The rows that CUDA_VISIBLE_DEVICES leaves, in its order: as in CUDA the first entry that names none ends the list."""
    if entries is None or not rows:
        return rows
    found: list[_Row] = []
    for entry in entries:
        if entry.startswith("MIG-"):
            raise NoGpu(
                f"CUDA_VISIBLE_DEVICES names whole GPUs and a MIG slice, {entry}",
                "name either GPUs or one slice; nothing was tested",
            )
        # the start of a UUID is enough where only one GPU has it
        named = [row for row in rows if row.index == entry or (entry.startswith("GPU-") and row.uuid.startswith(entry))]
        if len(named) != 1:
            break
        found += named
    return found


def _slice(rows: list[_Row], entry: str) -> Gpus:
    """A MIG slice. `nvidia-smi -L` has its name and UUID, `nvidia-smi -q -x` its memory, and both its number in its GPU."""
    gpu = ""
    for line in _said("-L").splitlines():
        if found := _LISTED_GPU.match(line):
            gpu = found["uuid"]
        elif (found := _LISTED_SLICE.match(line)) and found["uuid"] == entry:
            break
    else:
        raise NoGpu(
            f"CUDA_VISIBLE_DEVICES names a MIG slice that `nvidia-smi -L` does not list, {entry}",
            "name one that it lists; nothing was tested",
        )
    whole = next(row for row in rows if row.uuid == gpu)
    name = f"{whole.name} MIG {found['profile']}"
    return Gpus(name, 1, _mib(name, _slice_memory(gpu, found["number"])), whole.driver)


def _slice_memory(gpu: str, number: str) -> str:
    """What nvidia-smi says of the memory of slice `number` of a GPU, without the unit."""
    try:
        log = ElementTree.fromstring(_said("-q", "-x"))
    except ElementTree.ParseError:
        return "nothing"
    for each in log.iter("gpu"):
        if each.findtext("uuid", "").strip() == gpu:
            for part in each.iter("mig_device"):
                if part.findtext("index", "").strip() == number:
                    return part.findtext("fb_memory_usage/total", "nothing").removesuffix(" MiB").strip()
    return "nothing"


def _mib(name: str, memory: str) -> int:
    if not memory.isdecimal() or not int(memory):
        raise NoGpu(
            f"nvidia-smi says {memory} for the memory of {name}, and a run shares it out by that figure",
            "use a GPU whose memory nvidia-smi tells in MiB; nothing was tested",
        )
    return int(memory)


def _ask(fields: str) -> list[list[str]]:
    """nvidia-smi's rows for some fields; none where it is not there or fails. Raises NoGpu where it hangs."""
    said = _said(f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return [row for row in rows if len(row) == fields.count(",") + 1 and all(row)]


def _said(*arguments: str) -> str:
    """What nvidia-smi says; nothing where it is not there or fails. Raises NoGpu where it hangs."""
    if not shutil.which("nvidia-smi"):
        return ""
    try:
        child = subprocess.Popen(
            ["nvidia-smi", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        )
    except OSError:
        return ""
    try:
        said, _ = child.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        # One that is stuck in the driver does not die: it is not waited for, as subprocess.run would.
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=1)
        raise NoGpu(
            f"nvidia-smi did not answer within {_PATIENCE} s",
            "run it by hand: where it hangs, a GPU or its driver has failed; nothing was tested",
        ) from None
    return said if child.returncode == 0 else ""

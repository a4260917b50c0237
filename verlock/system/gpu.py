"""The NVIDIA GPUs of this machine and their driver, as the kernel and nvidia-smi name them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from verlock.errors import NoGpu

_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
_PATIENCE = 10  # seconds that nvidia-smi may take: it hangs where a GPU fell off the bus


@dataclass(frozen=True)
class Gpus:
    """The GPUs that a run may use; `memory_mib` is that of one."""

    name: str
    count: int
    memory_mib: int
    driver: str


def driver() -> str | None:
    """The driver's version, such as "580.159.04", or None where there is no GPU."""
    try:
        text = _KERNEL_DRIVER.read_text()
    except OSError:
        text = ""
    if match := re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", text):
        return match.group(1)
    rows = _ask("driver_version")
    return rows[0][0] if rows else None


def find() -> Gpus | None:
    """What nvidia-smi shows, cut down to CUDA_VISIBLE_DEVICES; None where there is no GPU.

    Name, memory and driver are those of the first one that is left. Indices are taken as nvidia-smi counts: CUDA counts so with
    CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises:
        NoGpu: a GPU is there, but cannot be used as one: a MIG slice, or one whose memory nvidia-smi does not tell.
    """
    seen = _visible(_ask("index,uuid,name,memory.total,driver_version"), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not seen:
        return None
    _, _, name, memory, version = seen[0]
    if not memory.isdecimal() or not int(memory):
        raise NoGpu(
            f"nvidia-smi says {memory} for the memory of {name}, and a run shares it out by that figure",
            "use a GPU whose memory nvidia-smi tells in MiB; nothing was tested",
        )
    return Gpus(name, len(seen), int(memory), version)


def indices() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, by index as nvidia-smi counts (CUDA's PCI_BUS_ID order). Raises NoGpu."""
    return [row[0] for row in _visible(_ask("index,uuid"), os.environ.get("CUDA_VISIBLE_DEVICES"))]


def _visible(rows: list[list[str]], wanted: str | None) -> list[list[str]]:
    """The rows that CUDA_VISIBLE_DEVICES leaves, in its order: as in CUDA the first entry that names none ends the list."""
    if wanted is None or not rows:
        return rows
    found = []
    for entry in map(str.strip, wanted.split(",")):
        if entry.startswith("MIG-"):
            raise NoGpu(f"CUDA_VISIBLE_DEVICES names a MIG slice, {entry}", "name a whole GPU; nothing was tested")
        # the start of a UUID is enough where only one GPU has it
        named = [row for row in rows if row[0] == entry or (entry.startswith("GPU-") and row[1].startswith(entry))]
        if len(named) != 1:
            break
        found += named
    return found


def _ask(fields: str) -> list[list[str]]:
    """nvidia-smi's rows for some fields; none where it is not there, fails or hangs."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        )
    except OSError:
        return []
    try:
        said, _ = child.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        # One that is stuck in the driver does not die: it is not waited for, as subprocess.run would.
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=1)
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return [row for row in rows if len(row) == fields.count(",") + 1 and all(row)] if child.returncode == 0 else []

"""The NVIDIA GPUs of this machine and their driver, as the kernel and nvidia-smi name them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
_PATIENCE = 10  # seconds that nvidia-smi may take: it hangs where a GPU fell off the bus
_LONG_PATIENCE = 60  # the same where GPUs are asked for: eight of them without a persistent driver take half a minute


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
    rows = _ask("driver_version", _PATIENCE)
    return rows[0][0] if rows else None


def find() -> Gpus | None:
    """What nvidia-smi shows, cut down to CUDA_VISIBLE_DEVICES; None where there is no GPU."""
    rows = _ask("name,memory.total,driver_version", _LONG_PATIENCE)
    if not rows:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = (
        len(rows) if visible is None else len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
    )
    name, memory, version = rows[0]
    return Gpus(name, count, int(memory), version) if count else None


def _ask(fields: str, patience: float) -> list[list[str]]:
    """nvidia-smi's rows for some fields; none where it is not there, fails or hangs."""
    if not shutil.which("nvidia-smi"):
        return []
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=False,
            timeout=patience,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == fields.count(",") + 1 and all(row)] if done.returncode == 0 else []

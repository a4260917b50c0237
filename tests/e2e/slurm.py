"""A small Slurm on this machine, for tests: a controller, and two nodes with two GPUs each that are none."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")


def lacks() -> str:
    """Why there can be no Slurm here; empty where there can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"no {', '.join(missing)} (Debian: slurm-wlm and munge)"
    return "" if os.geteuid() == 0 else "slurmd and munged are started as root here"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """slurmctld, two slurmd and a munged of their own in `folder`, which stops them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        host = socket.gethostname().partition(".")[0]
        control, *nodes = free_ports(3)
        for name in ("state", "munge"):
            (folder / name).mkdir()
        self.munge = folder / "munge/socket"
        (folder / "slurm.conf").write_text(
            f"ClusterName=verlock\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={control}\nSlurmUser=root\nSlurmdUser=root\n"
            f"AuthType=auth/munge\nAuthInfo=socket={self.munge},cred_expire=5\n"
            "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\nMpiDefault=none\n"
            "SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nReturnToService=2\nKillWait=5\nGresTypes=gpu\n"
            f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool_%n\nSlurmdPidFile={folder}/d%n.pid\n"
            f"SlurmctldPidFile={folder}/c.pid\nSlurmctldLogFile={folder}/ctld.log\nSlurmdLogFile={folder}/d%n.log\n"
            + "".join(
                f"NodeName=n{index} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 Gres=gpu:2\n"
                for index, port in enumerate(nodes)
            )
            + "PartitionName=all Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP\n"
        )
        for name in ("gpu0", "gpu1"):
            (folder / name).touch()
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> Cluster:
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        try:
            self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.munge}",
                        f"--pid-file={self.folder}/munge/pid", f"--log-file={self.folder}/munge/log",
                        f"--seed-file={self.folder}/munge/seed")  # fmt: skip
            self._until(self.munge.exists, "munged")
            self._start("slurmctld", "-D")
            for name in ("n0", "n1"):
                self._start("slurmd", "-D", "-N", name)
            self._until(lambda: self.ask("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], "two idle nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.ask("scancel", "--full", "--user=root")
        end = time.monotonic() + 30
        while self.ask("squeue", "-h") and time.monotonic() < end:  # what a job started outlives the daemons
            time.sleep(0.3)
        for process in reversed(self.started):  # by their ids: a Slurm of the machine's own goes on
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, *command: str) -> None:
        log = (self.folder / f"{command[0]}-{len(self.started)}.out").open("wb")
        self.started.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))
        log.close()

    def _until(self, done, what, seconds=60):
        end = time.monotonic() + seconds
        while not done():
            logs = "\n".join(f"{path.name}: {path.read_text()[-800:]}" for path in self.folder.glob("*.log"))
            assert time.monotonic() < end, f"no {what} within {seconds} s\n{logs}"
            time.sleep(0.2)

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints; nothing while the controller is not there yet."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def submit(self, script: str) -> str:
        """Submit a script; returns the job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable"], input=script, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        text = self.ask("scontrol", "show", "job", "--oneliner", job)
        return text.partition("JobState=")[2].split(" ")[0]

    def wait(
        self, job: str, output: Path, states=("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"), seconds=600
    ) -> str:
        """Wait until the job is in one of these states; returns which."""
        end = time.monotonic() + seconds
        while (state := self.state(job)) not in states:
            assert time.monotonic() < end, (
                f"job {job} is {state}\n{output.read_text() if output.exists() else 'no output'}"
            )
            time.sleep(0.3)
        return state

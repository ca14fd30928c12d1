"""A real Slurm on this one machine: controller, two pretended nodes, pretended GPUs.

It needs root and Debian's or Ubuntu's packages `slurm-wlm` and `munge`, no systemd, no cgroups and
nothing under /etc/slurm: every file lives in one temporary folder and SLURM_CONF points to it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

NODES = ("tcfnode0", "tcfnode1")
GPUS_PER_NODE = 2
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel", "squeue")

# GPUs are counted by their device files; no program here opens them, so any device will do.
_DEVICES = ("/dev/null", "/dev/zero")


class Unavailable(Exception):
    """Why no Slurm can be started here, in one sentence."""


def find(program: str) -> str | None:
    """Path of a program; the daemons live in /usr/sbin, which is not on everybody's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def reason_against() -> str | None:
    """Why the cluster cannot be started here, or None."""
    missing = [program for program in PROGRAMS if find(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "starting a Slurm needs root"
    return None


class LoopbackSlurm:
    """`with LoopbackSlurm() as cluster:` runs the daemons; `cluster.env` reaches them."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="tcf-slurm-"))
        self.env = {name: v for name, v in os.environ.items() if not name.startswith("SLURM")}
        self.env["SLURM_CONF"] = str(self.root / "slurm.conf")
        self._hosts_line = ""

    def __enter__(self) -> LoopbackSlurm:
        try:
            self._configure()
            self._start()
            self._wait_until_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---------------------------------------------------------------- what tests ask

    def run(
        self, *command: str, timeout: float = 60, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that finds the cluster."""
        return subprocess.run(
            command,
            env=self.env | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of `scontrol show job`, e.g. JobState and Restarts; empty when it is gone."""
        shown = self.run("scontrol", "show", "job", "-o", job_id).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def wait_for(self, job_id: str, *states: str, timeout: float = 60) -> dict[str, str]:
        """Wait until the job is in one of the states."""
        deadline = time.monotonic() + timeout
        while True:
            fields = self.job(job_id)
            if fields.get("JobState") in states:
                return fields
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job_id} is not {states} but {fields}\n{self.logs()}")
            time.sleep(0.2)

    def fail(self, node: str) -> None:
        """Declare a node down, as the controller does when it hears nothing from it any more."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def restore(self, node: str) -> None:
        """Bring a node back."""
        self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def cancel_everything(self) -> None:
        """End all jobs, so that one failed test does not starve the next."""
        self.run("scancel", "--user=root")

    def names_resolve(self) -> bool:
        """Whether the nodes' names mean this machine, adding them to /etc/hosts if permitted."""
        hosts = Path("/etc/hosts")
        if not self._hosts_line and os.access(hosts, os.W_OK):
            # A line of its own for each cluster: that of another one goes when that one ends.
            self._hosts_line = f"127.0.0.1 {' '.join(NODES)} # {self.root.name}\n"
            # Appended, not replaced: in containers the file is mounted and cannot be renamed.
            with hosts.open("a") as file:
                file.write(self._hosts_line)
        try:
            for name in NODES:
                socket.getaddrinfo(name, None)
        except OSError:
            return False
        return True

    def logs(self) -> str:
        """The last lines of every daemon's log."""
        parts = []
        for log in sorted((self.root / "log").glob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-15:]
            parts.append("\n".join([f"--- {log.name}", *tail]))
        return "\n".join(parts)

    # ---------------------------------------------------------------- daemons

    def _configure(self) -> None:
        for folder in ("state", "log", *(f"spool/{name}" for name in NODES)):
            (self.root / folder).mkdir(parents=True)
        key = self.root / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(1024))
        (self.root / "slurm.conf").write_text(self._slurm_conf())
        (self.root / "gres.conf").write_text(
            "".join(
                f"NodeName={name} Name=gpu File={device}\n"
                for name in NODES
                for device in _DEVICES[:GPUS_PER_NODE]
            )
        )
        (self.root / "cgroup.conf").write_text("ConstrainCores=no\nConstrainRAMSpace=no\n")

    def _slurm_conf(self) -> str:
        here = socket.gethostname().split(".")[0]
        ports = _free_ports(1 + len(NODES))
        settings = {
            "ClusterName": "loopback",
            # A job's port follows from its number: two clusters on one machine must not share them.
            "FirstJobId": random.randrange(1, 50_000),
            "SlurmctldHost": f"{here}(127.0.0.1)",
            "SlurmctldPort": ports[0],
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            # A requeued job may start once its old credential has expired: 2 minutes by default.
            "AuthInfo": f"socket={self.root}/munge.sock,cred_expire=5",
            "StateSaveLocation": self.root / "state",
            "SlurmdSpoolDir": self.root / "spool/%n",
            "SlurmctldPidFile": self.root / "slurmctld.pid",
            "SlurmdPidFile": self.root / "slurmd.%n.pid",
            "SlurmctldLogFile": self.root / "log/slurmctld.log",
            "SlurmdLogFile": self.root / "log/slurmd.%n.log",
            "MailProg": "/bin/true",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=0",
            "SlurmdParameters": "config_overrides",  # believe the core counts below
            "ReturnToService": 2,
            "JobRequeue": 1,
            "KillWait": 3,
            "InactiveLimit": 0,
            "MpiDefault": "none",
            "GresTypes": "gpu",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines += [
            f"NodeName={name} NodeHostname={here} NodeAddr=127.0.0.1 Port={port} CPUs=8 Boards=1 "
            f"SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=1000 "
            f"Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
            for name, port in zip(NODES, ports[1:], strict=True)
        ]
        nodes = ",".join(NODES)
        lines += [
            f"PartitionName=low Nodes={nodes} Default=YES MaxTime=INFINITE State=UP "
            "PriorityTier=1 PreemptMode=REQUEUE GraceTime=30",
            f"PartitionName=high Nodes={nodes} MaxTime=INFINITE State=UP "
            "PriorityTier=10 PreemptMode=OFF",
        ]
        return "\n".join(lines) + "\n"

    def _start(self) -> None:
        munge = [f"--{name}={self.root}/munge.{end}" for name, end in _MUNGE_FILES.items()]
        self._daemon("munged", "--force", "--num-threads=2", *munge)
        self._daemon("slurmctld", "-c")
        for name in NODES:
            self._daemon("slurmd", "-N", name)

    def _daemon(self, program: str, *arguments: str) -> None:
        path = find(program)
        assert path is not None
        done = subprocess.run(
            [path, *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            # Files, not pipes: the daemon keeps them open and a pipe would never end.
            stdout=(self.root / "log" / f"{program}.out").open("wb"),
            stderr=subprocess.STDOUT,
            timeout=30,
            check=False,
        )
        if done.returncode:
            said = (self.root / "log" / f"{program}.out").read_text(errors="replace").strip()
            raise Unavailable(f"{program} did not start: {said[-400:]}")

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            idle = self.run("sinfo", "--noheader", "-N", "--partition=low", "--states=idle").stdout
            if len(idle.splitlines()) == len(NODES):
                return
            time.sleep(0.1)
        raise Unavailable(f"the nodes did not become idle\n{self.logs()}")

    def stop(self) -> None:
        """End jobs and daemons, and take our names out of /etc/hosts again."""
        if (self.root / "slurmctld.pid").exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run("scancel", "--user=root", timeout=5)
            with contextlib.suppress(AssertionError):
                deadline = time.monotonic() + 10
                while self.run("squeue", "--noheader").stdout.strip():
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.2)
        pids = []
        for name in ("slurmd.*.pid", "slurmctld.pid", "munge.pid"):
            for file in self.root.glob(name):
                with contextlib.suppress(ValueError, ProcessLookupError):
                    pids.append(int(file.read_text()))
                    os.kill(pids[-1], 15)
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.1)
        if self._hosts_line:
            hosts = Path("/etc/hosts")
            hosts.write_text(hosts.read_text().replace(self._hosts_line, ""))
        shutil.rmtree(self.root, ignore_errors=True)


_MUNGE_FILES = {
    "key-file": "key",
    "socket": "sock",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]

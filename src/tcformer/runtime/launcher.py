"""What the launcher told this process: its rank, the number of processes, where they meet.

Torch-free, so that it can be asked before torch is imported.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tcformer.errors import UserError

Launcher = Literal["single", "torchrun", "slurm"]

DEFAULT_PORT = 29500


@dataclass(frozen=True)
class LaunchEnvironment:
    """The place of this process among all of them.

    `local_rank` counts within one machine, whose number of processes is `local_size`, or None where
    the launcher does not say. `master_addr` and `master_port` are where rank 0 listens.
    """

    launcher: Launcher = "single"
    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int | None = None
    master_addr: str = "127.0.0.1"
    master_port: int = DEFAULT_PORT


def read_environment(env: Mapping[str, str] = os.environ) -> LaunchEnvironment:
    """Read torchrun's variables, else Slurm's, else conclude that this process is alone.

    Raises:
        UserError: a variable is missing or makes no sense.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        return _from_torchrun(env)
    if "SLURM_PROCID" in env and "SLURM_NTASKS" in env and not _is_batch_script(env):
        return _from_slurm(env)
    return LaunchEnvironment()


def _from_torchrun(env: Mapping[str, str]) -> LaunchEnvironment:
    rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
    local_rank = _number(env, "LOCAL_RANK", default=rank)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if size > 1 and not env.get(name):
            raise UserError(
                f"{name} is not set although WORLD_SIZE is {size}: start the processes with "
                "dist_train.sh or torchrun, or set it."
            )
    local_size = _number(env, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in env else None
    address = env.get("MASTER_ADDR") or "127.0.0.1"
    port = _number(env, "MASTER_PORT", default=DEFAULT_PORT)
    return _checked(
        LaunchEnvironment("torchrun", rank, local_rank, size, local_size, address, port)
    )


def _from_slurm(env: Mapping[str, str]) -> LaunchEnvironment:
    size = _number(env, "SLURM_STEP_NUM_TASKS", default=_number(env, "SLURM_NTASKS"))
    if size == 1:
        return LaunchEnvironment()
    rank = _number(env, "SLURM_PROCID")
    nodes = _number(env, "SLURM_STEP_NUM_NODES", default=_number(env, "SLURM_NNODES", default=0))
    # Within one machine no name needs to be resolved.
    address = env.get("MASTER_ADDR", "") or ("127.0.0.1" if nodes == 1 else "")
    if not address:
        names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        listed = next((env[name] for name in names if env.get(name)), "")
        if not listed:
            raise UserError(
                "SLURM_NODELIST is not set, so the first node is unknown: start the processes "
                "with srun, or set MASTER_ADDR."
            )
        address = first_host(listed)
    local_rank = _number(env, "SLURM_LOCALID", default=rank)
    local_size = size if nodes == 1 else None
    port = _number(env, "MASTER_PORT", default=port_of_job(env))
    return _checked(LaunchEnvironment("slurm", rank, local_rank, size, local_size, address, port))


def speak_after_main(env: Mapping[str, str] = os.environ, patience: float = 3.0) -> None:
    """Before a process tells of its error: let the main process tell first, if it has the same.

    The launcher ends the others as soon as the main process has failed, so one sentence is printed.
    What only they have met, they tell after `patience` seconds.
    """
    slurm_rank = "0" if _is_batch_script(env) else env.get("SLURM_PROCID", "0")
    if env.get("RANK", slurm_rank) != "0":
        time.sleep(patience)


def _is_batch_script(env: Mapping[str, str]) -> bool:
    """Whether this is the body of an sbatch script: one process, whatever SLURM_NTASKS says.

    A job that was submitted from inside a step inherits that step's variables (Slurm 22.05).
    """
    batch = env.get("ENVIRONMENT") == "BATCH"
    if not batch or "SLURM_STEP_ID" not in env:
        return batch
    if step := _step_of(env.get("SLURM_TASK_PID", "")):
        return step == "batch"
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
    of_step, of_job = (set(expand_hostlist(env.get(name, ""))) for name in names)
    return bool(of_job) and not of_step <= of_job


def _step_of(task: str) -> str:
    """The step that Slurm has started a process for ("batch", "0", ...), by its name for it."""
    try:
        stat = Path("/proc", task, "stat").read_text()
        parent = stat.rpartition(")")[2].split()[1]
        name = Path("/proc", parent, "cmdline").read_text()
    except (OSError, IndexError):
        return ""
    found = re.match(r"slurmstepd: \[[^].]*\.(\w+)\]", name)
    return found[1] if found else ""


def port_of_job(env: Mapping[str, str]) -> int:
    """A port that two jobs (or two steps of a job) on one machine are unlikely to share.

    Within 12000..31999: free for users, and below the ports Linux hands out by itself.
    """
    job, step = env.get("SLURM_JOB_ID", ""), env.get("SLURM_STEP_ID", "0")
    if not job.isdigit():
        return DEFAULT_PORT
    return 12000 + (int(job) * 7 + (int(step) if step.isdigit() else 0)) % 20000


def first_host(nodelist: str) -> str:
    """First host of a Slurm node list."""
    hosts = expand_hostlist(nodelist)
    if not hosts:
        raise UserError(f"the Slurm node list {nodelist!r} names no host: set MASTER_ADDR.")
    return hosts[0]


def expand_hostlist(nodelist: str) -> list[str]:
    """Expand Slurm's bracket form: 'n[08-10,12],gpu1' -> ['n08', 'n09', 'n10', 'n12', 'gpu1'].

    Several brackets in a name expand with the last one running fastest, as Slurm does.

    Raises:
        UserError: brackets that do not match or a range that is none.
    """
    name = r"(?:[^,\[\]]|\[\d+(?:-\d+)?(?:,\s*\d+(?:-\d+)?)*\])+"
    if not re.fullmatch(rf"(?:{name}(?:,{name})*)?", nodelist):
        raise UserError(f"the Slurm node list {nodelist!r} cannot be read.")
    hosts: list[str] = []
    for each in re.findall(name, nodelist):
        expanded = [""]
        for text, inner in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", each):
            choices = [] if inner else [text]
            for low, high in re.findall(r"(\d+)(?:-(\d+))?", inner):
                numbers = range(int(low), int(high or low) + 1)
                choices += [str(number).zfill(len(low)) for number in numbers]
            expanded = [head + tail for head in expanded for tail in choices]
        hosts += expanded
    return hosts


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdigit():
        raise UserError(f"{name} must be a whole number that is not negative, got {text!r}.")
    return int(text)


def _checked(found: LaunchEnvironment) -> LaunchEnvironment:
    if found.size < 1 or found.rank >= found.size:
        raise UserError(
            f"process {found.rank} of {found.size} cannot be: ranks count from 0 to size - 1 "
            "(RANK and WORLD_SIZE, or SLURM_PROCID and SLURM_NTASKS)."
        )
    return found

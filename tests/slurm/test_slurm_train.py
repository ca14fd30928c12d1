"""`slurm_train.sh` on a real Slurm with two pretended nodes of two pretended GPUs.

The run itself is played by a small program, so that these tests take seconds; the ranks, signals
and requeues are the real ones. `test_real_runs.py` trains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, clean_env

pytestmark = pytest.mark.xdist_group("slurm")

SCRIPT = str(ROOT / "slurm_train.sh")

# A training run in small. It notes where it was put, then ends as `--how` says. 'until-stopped'
# saves when asked to stop, and goes on from there when it is started again.
STAND_IN = """
import dataclasses, json, os, sys, time
from pathlib import Path
from tcformer.runtime.launcher import read_environment
from tcformer.runtime.signals import install_early, interrupt, requeue_if_slurm

install_early()
env = read_environment()
arguments = sys.argv[1:]
folder = Path(arguments[arguments.index("--output_dir") + 1])
how = arguments[arguments.index("--how") + 1]
start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
folder.mkdir(exist_ok=True)
names = ("SLURM_GPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "SLURM_JOB_PARTITION", "SLURM_JOB_NAME")
told = {"arguments": arguments, **dataclasses.asdict(env), **{n: os.environ.get(n) for n in names}}
(folder / f"{env.rank}.tmp").write_text(json.dumps(told))
os.replace(folder / f"{env.rank}.tmp", folder / f"started-{start}-{env.rank}.json")

def everybody(word):
    (folder / f"{word}-{start}-{env.rank}").touch()
    while len(list(folder.glob(f"{word}-{start}-*"))) < env.size:
        time.sleep(0.02)

if how == "fail" and env.rank == 1:
    sys.exit(2)
if how == "succeed":
    sys.exit(0)
if start:
    (folder / "resumed").write_text((folder / "saved").read_text())
    sys.exit(0)
end = time.monotonic() + 50
while not interrupt.requested and time.monotonic() < end:
    time.sleep(0.02)
everybody("agreed")
if env.rank == 0:
    (folder / "saved").write_text(interrupt.reason)
    requeue_if_slurm()
everybody("left")
sys.exit(75)
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """A `python` that plays the run instead of training."""
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    python.chmod(0o755)
    return str(python)


def wait_for(condition, timeout: float = 40) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def started(folder: Path, restart: int = 0) -> list[dict]:
    files = sorted(folder.glob(f"started-{restart}-*.json"))
    return [json.loads(file.read_text()) for file in files]


def call(slurm, folder: Path, *options: str, python: str, **variables: str):
    """The published call, in the foreground."""
    command = [SCRIPT, "low", "a-job", "pyproject.toml", str(folder), *options]
    env = {"PYTHON": python, "CPUS_PER_TASK": "1", **variables}
    return slurm.run(*command, timeout=100, **env)


def test_four_processes_on_two_nodes(slurm, stand_in, tmp_path):
    folder = tmp_path / "work dir"
    done = call(
        *(slurm, folder, "--data-path", "a folder", "--how", "succeed"),
        python=stand_in,
        GPUS="4",
        GPUS_PER_NODE="2",
        CPUS_PER_TASK="3",
        SRUN_ARGS="--time=5 --comment=two_words",
    )
    assert done.returncode == 0, done.stderr
    told = started(folder)
    places = [(t["rank"], t["local_rank"], t["size"]) for t in told]
    assert places == [(0, 0, 4), (1, 1, 4), (2, 0, 4), (3, 1, 4)]
    assert {(t["launcher"], t["master_addr"], t["master_port"]) for t in told} == {
        ("slurm", "tcfnode0", told[0]["master_port"])
    }
    for each in told:
        assert each["SLURM_GPUS_ON_NODE"] == "2"
        assert each["SLURM_CPUS_PER_TASK"] == "3"
        assert each["SLURM_JOB_PARTITION"] == "low"
        assert each["SLURM_JOB_NAME"] == "a-job"
        assert each["arguments"] == [
            *("-u", "-m", "tcformer", "train", "--config", "pyproject.toml"),
            *("--output_dir", str(folder), "--data-path", "a folder", "--how", "succeed"),
        ]


@pytest.mark.parametrize(
    ("gpus", "per_node", "seen"), [("2", "8", "2"), ("2", "0", None), ("1", "8", "1")]
)
def test_fewer_gpus_than_a_node_has_or_none(slurm, stand_in, tmp_path, gpus, per_node, seen):
    done = call(
        *(slurm, tmp_path / "w", "--how", "succeed"),
        python=stand_in,
        GPUS=gpus,
        GPUS_PER_NODE=per_node,
    )
    assert done.returncode == 0, done.stderr
    told = started(tmp_path / "w")
    assert [t["SLURM_GPUS_ON_NODE"] for t in told] == [seen] * int(gpus)
    assert [t["launcher"] for t in told] == (["slurm"] * 2 if gpus == "2" else ["single"])


def test_one_failing_process_ends_the_job(slurm, stand_in, tmp_path):
    begin = time.monotonic()
    done = call(slurm, tmp_path / "w", "--how", "fail", python=stand_in, GPUS="2")
    assert done.returncode != 0
    assert time.monotonic() - begin < 30, "the others must not wait for ever"


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_the_interactive_job_saves_and_leaves(slurm, stand_in, tmp_path, name):
    folder = tmp_path / "w"
    srun = subprocess.Popen(
        [SCRIPT, "low", f"job-{name}", "pyproject.toml", str(folder), "--how", "until-stopped"],
        env=slurm.env | {"PYTHON": stand_in, "GPUS": "2", "CPUS_PER_TASK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: len(started(folder)) == 2)
        slurm.run("scancel", f"--name=job-{name}", f"--signal={name}")
        out, err = srun.communicate(timeout=40)
    finally:
        srun.kill()
    assert (folder / "saved").read_text() == f"SIG{name}", err
    assert srun.returncode == 75
    assert ("--resume auto" in out) == (name == "USR1"), "Slurm cannot queue it again"


def submit(slurm, folder: Path, python: str, how: str = "until-stopped", **variables: str) -> str:
    """The call with SBATCH=1; the id of the job, whose two processes have started."""
    env = {"GPUS": "2", "GPUS_PER_NODE": "1", "SBATCH": "1", **variables}
    done = call(slurm, folder, "--how", how, python=python, **env)
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[-1]
    wait_for(lambda: len(started(folder)) == 2)
    return job


def resumed(slurm, job: str, folder: Path) -> str:
    """Wait until the job has run again to its end; what it wrote in both runs."""
    wait_for((folder / "resumed").exists, timeout=90)
    fields = slurm.wait_for(job, "COMPLETED")
    assert fields["Restarts"] == "1"
    assert len(started(folder, restart=1)) == 2
    return (folder / f"slurm-{job}.out").read_text()


def test_a_batch_job_with_an_empty_environment_and_an_odd_folder(slurm, stand_in, tmp_path):
    """`--export=NONE` reaches the steps as well, and 50 % is a pattern of sbatch."""
    folder = tmp_path / "häuser, 50 %j's"
    job = submit(slurm, folder, stand_in, how="succeed", SBATCH_ARGS="--export=NONE")
    slurm.wait_for(job, "COMPLETED")
    assert [one["size"] for one in started(folder)] == [2, 2]
    assert (folder / f"slurm-{job}.out").is_file()


def test_the_last_task_of_an_array_is_queued_again_by_its_own_name(slurm, stand_in, tmp_path):
    """Its number is the whole array's, with which finished tasks would be queued again as well."""
    folder = tmp_path / "w"
    job = submit(slurm, folder, stand_in, SBATCH_ARGS="--array=5")
    slurm.run("scancel", "--signal=USR1", f"{job}_5")
    out = resumed(slurm, job, folder)
    assert f"queue job {job}_5 again" in out


@pytest.mark.slow
def test_slurm_sends_the_signal_before_the_time_limit(slurm, stand_in, tmp_path):
    # A minute is the least limit; Slurm looks up to 60 s ahead of a signal's time.
    job = submit(slurm, tmp_path / "w", stand_in, SBATCH_ARGS="--time=1 --signal=USR1@55")
    resumed(slurm, job, tmp_path / "w")
    assert (tmp_path / "w" / "resumed").read_text() == "SIGUSR1"


@pytest.mark.slow
def test_a_batch_job_that_is_queued_again_by_hand_resumes(slurm, stand_in, tmp_path):
    job = submit(slurm, tmp_path / "w", stand_in)
    slurm.run("scontrol", "requeue", job)
    resumed(slurm, job, tmp_path / "w")
    assert (tmp_path / "w" / "resumed").read_text() == "SIGTERM"


@pytest.mark.slow
def test_a_cancelled_batch_job_saves_and_stays_away(slurm, stand_in, tmp_path):
    job = submit(slurm, tmp_path / "w", stand_in)
    slurm.run("scancel", job)
    slurm.wait_for(job, "CANCELLED")
    assert (tmp_path / "w" / "saved").read_text() == "SIGTERM"
    assert slurm.job(job)["Restarts"] == "0"


# ------------------------------------------------------------------ without a cluster


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ((), {}, "usage: ./slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR"),
        (("low", "job", "config.py"), {}, "usage:"),
        (("low", "job", "c.py", "w"), {"GPUS": "many"}, "GPUS must be a whole number, got 'many'"),
        (("low", "job", "c.py", "w"), {"GPUS": "0"}, "GPUS must be 1 or more"),
        (("low", "job", "c.py", "w"), {"CPUS_PER_TASK": "0"}, "CPUS_PER_TASK must be 1 or more"),
        (("low", "job", "c.py", "w"), {}, "there is no srun here"),
        (("low", "job", "c.py", "w"), {"SBATCH": "1"}, "there is no sbatch here"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path, arguments, variables, said):
    for tool in ("bash", "dirname", "env"):
        path = next(p for p in (f"/bin/{tool}", f"/usr/bin/{tool}") if os.path.exists(p))
        (tmp_path / tool).symlink_to(path)
    done = subprocess.run(
        [SCRIPT, *arguments],
        env=clean_env(PATH=str(tmp_path)) | variables,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1

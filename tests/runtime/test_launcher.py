"""Reading what the launchers say; no torch needed."""

from __future__ import annotations

import pytest

from tcformer.errors import UserError
from tcformer.runtime import launcher
from tcformer.runtime.launcher import (
    LaunchEnvironment,
    expand_hostlist,
    port_of_job,
    read_environment,
    speak_after_main,
)

# As seen in a step of a real Slurm 22.05.
STEP = {
    "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NODELIST": "node[07-08]",
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "node[07-08]",
}  # fmt: skip


def test_alone_without_a_launcher():
    assert read_environment({}) == LaunchEnvironment()


def test_torchrun():
    env = {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu1", "MASTER_PORT": "1234",
    }  # fmt: skip
    expected = LaunchEnvironment("torchrun", 5, 1, 8, 4, "gpu1", 1234)
    assert read_environment(env) == expected
    assert read_environment(env | STEP) == expected, "torchrun inside Slurm comes first"


def test_slurm():
    found = read_environment(STEP)
    assert (found.launcher, found.rank, found.local_rank, found.size) == ("slurm", 3, 1, 4)
    assert found.master_addr == "node07"
    assert found.master_port == port_of_job(STEP)


def test_slurm_as_published_needs_three_variables_only():
    env = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_NODELIST": "a[3,5]"}
    found = read_environment(env)
    assert (found.rank, found.size, found.master_addr, found.master_port) == (1, 2, "a3", 29500)


def test_where_slurms_processes_meet():
    one_node = read_environment(STEP | {"SLURM_STEP_NUM_NODES": "1"})  # needs no name
    assert (one_node.master_addr, one_node.local_size) == ("127.0.0.1", 4)
    by_hand = read_environment(STEP | {"MASTER_ADDR": "head", "MASTER_PORT": "4321"})
    assert (by_hand.master_addr, by_hand.master_port) == ("head", 4321)
    assert read_environment(STEP | {"ENVIRONMENT": "BATCH"}).size == 4, "srun in a batch script"


@pytest.mark.parametrize(
    "env",
    [
        # The body of an sbatch script is one process, whatever the job's number of tasks.
        {"ENVIRONMENT": "BATCH", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "9"},
        STEP | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    ],
)
def test_slurm_with_one_process_is_alone(env):
    assert read_environment(env) == LaunchEnvironment()


def test_a_batch_script_submitted_from_a_step_is_alone(monkeypatch):
    """It inherits the step's variables; other nodes, or the name of Slurm's process, tell."""
    inherited = STEP | {"ENVIRONMENT": "BATCH", "SLURM_JOB_NODELIST": "other[1-2]"}
    assert read_environment(inherited) == LaunchEnvironment()
    same_nodes = STEP | {"ENVIRONMENT": "BATCH", "SLURM_TASK_PID": "77"}
    steps = iter(["batch", "0"])
    monkeypatch.setattr(launcher, "_step_of", lambda task: next(steps))
    assert read_environment(same_nodes) == LaunchEnvironment()
    assert read_environment(same_nodes).size == 4


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "MASTER_PORT"),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "process 2 of 2",
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "SLURM_NODELIST"),
        ({"SLURM_PROCID": "-1", "SLURM_NTASKS": "2", "SLURM_NODELIST": "a"}, "SLURM_PROCID"),
    ],
)
def test_nonsense_is_refused_by_name(env, named):
    with pytest.raises(UserError, match=named):
        read_environment(env)


@pytest.mark.parametrize(
    ("nodelist", "hosts"),
    [
        ("node1", "node1"),
        ("a,b.site.org", "a b.site.org"),
        ("n[1-3]", "n1 n2 n3"),
        ("n[08-10,12],gpu1", "n08 n09 n10 n12 gpu1"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("r[1-2]c[3,5]-ib", "r1c3-ib r1c5-ib r2c3-ib r2c5-ib"),
        ("", ""),
    ],
)
def test_hostlist(nodelist, hosts):
    assert expand_hostlist(nodelist) == hosts.split()


@pytest.mark.parametrize("nodelist", ["n[1-", "n1-3]", "n[a-b]", "n[[1]]", "n[1,,2]"])
def test_unreadable_hostlist(nodelist):
    with pytest.raises(UserError, match="node list"):
        expand_hostlist(nodelist)


def test_ports_of_jobs_differ_and_are_allowed():
    ports = {
        port_of_job({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
        for job in range(1000, 1100)
        for step in range(3)
    }
    assert len(ports) == 300
    assert min(ports) > 1024
    assert max(ports) < 32768
    assert port_of_job({}) == 29500


@pytest.mark.parametrize(
    ("env", "waits"),
    [
        ({}, False),
        ({"RANK": "0"}, False),
        ({"RANK": "2"}, True),
        ({"SLURM_PROCID": "1"}, True),
        ({"RANK": "0", "SLURM_PROCID": "1"}, False),
    ],
)
def test_only_other_processes_wait_before_they_complain(monkeypatch, env, waits):
    slept: list[float] = []
    monkeypatch.setattr(launcher.time, "sleep", slept.append)
    speak_after_main(env, patience=7.0)
    assert slept == ([7.0] if waits else [])

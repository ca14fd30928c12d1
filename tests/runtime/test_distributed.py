"""Several processes over gloo: they meet, add up, agree, and end together."""

from __future__ import annotations

import json

import pytest
import torch
from processes import Family

from tcformer.errors import UserError
from tcformer.runtime import distributed
from tcformer.runtime.distributed import (
    World,
    all_reduce_sums,
    barrier,
    broadcast_object,
    gather_objects,
    guard,
    init_world,
    interrupt_reason,
    shutdown,
)
from tcformer.runtime.launcher import LaunchEnvironment
from tcformer.runtime.signals import interrupt

pytestmark = pytest.mark.xdist_group("gloo")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    parent = Family(tmp_path_factory.mktemp("family"))
    yield parent
    parent.close()


TALK = """
import json, sys
from tcformer.runtime.signals import interrupt
from tcformer.runtime.distributed import *
from tcformer.runtime.distributed import gather_objects, interrupt_reason
import torch
world = init_world("cpu")
print("only the main process may be heard")
half = torch.full((2, 2), 2.0**-40 + world.rank, dtype=torch.float64)
said = {
    "sums": all_reduce_sums(world, half).tolist(),
    "integers": all_reduce_sums(world, torch.tensor([world.rank + 1])).tolist(),
    "unchanged": half.tolist(),
    "from 1": broadcast_object(world, {"rank": world.rank}, src=1),
    "all": gather_objects(world, world.rank),
    "quiet": interrupt_reason(world),
    "rank": world.rank, "size": world.size, "backend": world.backend, "main": world.is_main,
}
if world.rank == world.size - 1:
    interrupt.request("SIGUSR1")
if world.rank == 0:
    interrupt.request("SIGTERM")
said["agreed"] = interrupt_reason(world)
said["noted"] = interrupt.reason
barrier(world)
shutdown(world)
print(json.dumps(said), file=sys.stderr)
"""

# argv: which rank fails, and how
FAIL = """
import os, sys, time
from tcformer.errors import UserError
from tcformer.runtime import failure
from tcformer.runtime.distributed import *
failure._PATIENCE = 1.0  # no launcher here knows more
world = init_world("cpu")
with guard(world):
    if str(world.rank) in sys.argv[1]:
        if sys.argv[2] == "user":
            raise UserError("the file f.jpg is broken.")
        if sys.argv[2] == "bug":
            raise ZeroDivisionError("a defect")
        if sys.argv[2] == "status":
            raise SystemExit(7)
        os.kill(os.getpid(), 9)
    barrier(world)
    time.sleep(60)
"""


# One process takes its time between connecting and the end of `init_world`.
CONNECT = """
import time
import torch.distributed as dist
from tcformer.runtime.distributed import *
from tcformer.runtime.distributed import gather_objects
connect = dist.init_process_group
def slowly(*arguments, rank, **options):
    global connected
    connect(*arguments, rank=rank, **options)
    time.sleep((rank == 2) / 2)
    connected = time.monotonic()
dist.init_process_group = slowly
world = init_world("cpu")
left = time.monotonic()
assert left >= max(gather_objects(world, connected))
shutdown(world)
"""


def test_nobody_leaves_before_all_are_connected(family):
    assert [process.err for process in family.run(CONNECT, 3)] == ["", "", ""]


def test_processes_meet_and_talk(family):
    size = 3
    ended = family.run(TALK, size)
    for rank, process in enumerate(ended):
        assert process.status == 0, process.err
        said = json.loads(process.err.splitlines()[-1])
        total = size * 2.0**-40 + sum(range(size))
        assert said == {
            "sums": [[total, total], [total, total]],
            "integers": [sum(range(1, size + 1))],
            "unchanged": [[2.0**-40 + rank] * 2] * 2,
            "from 1": {"rank": 1},
            "all": list(range(size)),
            "quiet": "",
            "rank": rank,
            "size": size,
            "backend": "gloo",
            "main": rank == 0,
            "agreed": "SIGUSR1",
            "noted": "SIGUSR1",
        }
        lines = [f"| distributed init (rank {rank}): env://"]
        lines += ["only the main process may be heard"] if rank == 0 else []
        assert process.out.splitlines() == lines


@pytest.mark.parametrize("failing", ["0", "1", "01"])
def test_a_sentence_ends_all_and_is_told_once(family, failing):
    ended = family.run(FAIL, 2, failing, "user")
    # The other process may lose sight of the first (then 1) or read its status (then 2).
    assert all(ended[int(rank)].status == 2 for rank in failing)
    assert all(process.status in (1, 2) for process in ended)
    assert "".join(process.err for process in ended) == "error: the file f.jpg is broken.\n"
    assert abs(ended[0].seconds - ended[1].seconds) < 5


def test_a_defect_shows_one_traceback(family):
    ended = family.run(FAIL, 2, "1", "bug")
    said = "".join(process.err for process in ended)
    assert said.count("Traceback") == 1
    assert "ZeroDivisionError: a defect" in said
    assert [process.status for process in ended] == [1, 1]


@pytest.mark.parametrize(("how", "status"), [("status", 7), ("kill", -9)])
def test_other_ends(family, how, status):
    ended = family.run(FAIL, 3, "1", how)
    assert ended[1].status == status
    assert all(process.status not in (0, 75) for process in ended)
    assert max(process.seconds for process in ended) - min(p.seconds for p in ended) < 15


# ------------------------------------------------------------------ alone


def test_alone_everything_is_the_identity(monkeypatch, capsys):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    world = init_world("cpu")
    assert capsys.readouterr().out == "Not using distributed mode\n"
    assert world == World()
    assert (world.is_main, world.size, world.backend) == (True, 1, None)
    sums = all_reduce_sums(world, torch.tensor([1, 2]))
    assert sums.dtype == torch.float64
    assert sums.tolist() == [1, 2]
    assert gather_objects(world, "a") == ["a"]
    assert broadcast_object(world, "a") == "a"
    assert interrupt_reason(world) == ""
    interrupt.request("SIGTERM")
    assert interrupt_reason(world) == "SIGTERM"
    interrupt.clear()
    barrier(world)
    shutdown(world)


def test_alone_errors_pass_through():
    with pytest.raises(UserError, match="as it is"), guard(World()):
        raise UserError("as it is.")


# ------------------------------------------------------------------ meeting


def test_dist_url_may_name_the_meeting_point():
    env = LaunchEnvironment("torchrun", 0, 0, 2)
    assert distributed._meeting_point("tcp://10.0.0.1:77", env) == ("10.0.0.1", 77)
    assert distributed._meeting_point("env://", env) == ("127.0.0.1", 29500)
    for url in ("env//", "tcp://host", "file:///tmp/x", "tcp://h:port"):
        with pytest.raises(UserError, match="--dist_url"):
            distributed._meeting_point(url, env)


def test_an_unknown_first_machine_is_named_at_once(monkeypatch):
    address = {"MASTER_ADDR": "no-such-machine.invalid", "MASTER_PORT": "29500"}
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", **address}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_mute", lambda: None)
    with pytest.raises(UserError, match=r"no-such-machine\.invalid"):
        init_world("cpu")


def test_nobody_comes(monkeypatch):
    env = LaunchEnvironment("torchrun", 0, 0, 2, 2, "127.0.0.1", 0)
    with pytest.raises(UserError, match="could not meet the others"):
        distributed._meet("127.0.0.1", 0, env, distributed.timedelta(seconds=1))

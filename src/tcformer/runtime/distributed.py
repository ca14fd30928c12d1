"""Many processes as one run: meet, agree, add up, and end together.

Works the same under torchrun (or `dist_train.sh`), under Slurm's srun, and alone. GPUs talk over
NCCL; flags, sums and the agreement to stop travel over gloo on the CPU, so that asking every step
"does anybody want to stop?" never makes a GPU wait.

    world = init_world(device="auto")
    with guard(world):
        ...                       # an error on one process ends all of them, with one sentence
    shutdown(world)

With one process nothing is set up and every function below returns its input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import warnings
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlparse

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from tcformer.errors import UserError
from tcformer.runtime.devices import World as World
from tcformer.runtime.devices import choose_device
from tcformer.runtime.failure import (
    collective_timeout,
    end_workers,
    guard,
    quiet_stderr,
    silence,
)
from tcformer.runtime.launcher import LaunchEnvironment, read_environment
from tcformer.runtime.signals import STOP_SIGNALS, ignore_from_now_on, interrupt

T = TypeVar("T")


def init_world(device: str = "auto", dist_url: str = "env://", timeout_minutes: float = 5) -> World:
    """Find the other processes, choose this one's device, and meet.

    Prints the published lines: `Not using distributed mode`, or on every process
    `| distributed init (rank R): env://`. After that the standard output of all but the main
    process is silent; errors still reach the standard error stream.

    Args:
        device: 'auto' (a GPU if there is one, else the CPU), 'cpu', 'cuda', 'cuda:N' or 'mps'.
        dist_url: 'env://' (the launcher's variables say where to meet) or 'tcp://HOST:PORT'.
        timeout_minutes: how long to wait until all have met.

    Raises:
        UserError: no such device, more processes than GPUs, or the processes cannot meet.
    """
    env = read_environment()
    address, port = _meeting_point(dist_url, env)
    if env.launcher == "single":
        print("Not using distributed mode", flush=True)
        return World(device=choose_device(device, env))
    print(f"| distributed init (rank {env.rank}): {dist_url}", flush=True)
    if env.size == 1:
        return World(device=choose_device(device, env), launcher=env.launcher)
    if env.rank != 0:
        _mute()
    timeout = timedelta(minutes=timeout_minutes)
    store = _meet(address, port, env, timeout)
    world = World(env.rank, env.local_rank, env.size, launcher=env.launcher, store=store)
    with guard(world):  # from here on an error is told once, however many processes meet it
        chosen = choose_device(device, env)
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        # One backend a device type: collectives on CPU tensors go over gloo even in a GPU run.
        with quiet_stderr():  # gloo tells there of every peer that fails meanwhile
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo",
                store=PrefixStore("tcformer/group", store),
                rank=env.rank,
                world_size=env.size,
                timeout=timedelta(seconds=collective_timeout()),
            )
        world = dataclasses.replace(world, device=chosen, backend=backend)
        if backend == "nccl":
            _refuse_shared_gpus(world)
        # Nobody tells gloo that a peer ended before it connected. When a process failed right here,
        # a second one failed with it, half connected, and a third one waited for the second until
        # the timeout. So leave together, when all are connected.
        barrier(world)
    return world


def shutdown(world: World) -> None:
    """Wait for the others and leave the group; to be called once, at the good end of a run.

    Waiting matters: srun and torchrun end every process as soon as one has left with a status
    other than 0, and the main process may still be writing.
    """
    if world.size > 1 and dist.is_initialized():
        barrier(world)
        dist.destroy_process_group()


def leave(status: int) -> int:
    """End a process that has peers with `status`, at once; alone, just return `status`.

    To be called last, after `shutdown`. Threads of torch (gloo, DDP, autograd) outlive the group,
    and sometimes meet an interpreter that is being taken down under them: one of 22 runs, all
    finished in good order, died of SIGABRT at exit (torch 2.15).
    """
    ignore_from_now_on()
    if read_environment().size == 1:
        return status
    end_workers()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def all_reduce_sums(world: World, sums: torch.Tensor) -> torch.Tensor:
    """Add up a tensor of sums, of any shape, real dtype and device, over all processes.

    Returns float64, same shape and device, the same bits on every process.
    """
    total = sums.detach().to(device="cpu", dtype=torch.float64, copy=True)
    if world.size > 1:
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total.to(sums.device) if sums.device.type != "mps" else total


def barrier(world: World) -> None:
    """Wait until every process has arrived."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))


def broadcast_object(world: World, obj: T, src: int = 0) -> T:
    """The object of process `src`, on every process. It travels pickled, among our own."""
    if world.size == 1:
        return obj
    box: list[Any] = [obj]
    dist.broadcast_object_list(box, src=src, device=torch.device("cpu"))
    received: T = box[0]
    return received


def gather_objects(world: World, obj: T) -> list[T]:
    """The object of every process, by rank, on every process."""
    gathered: list[Any] = [None] * world.size
    for rank in range(world.size):
        gathered[rank] = broadcast_object(world, obj, src=rank)
    return gathered


def interrupt_reason(world: World) -> str:
    """The stop signal that any process has received, or ''; the same answer on every process.

    Also noted in the local `interrupt`. The loop asks this between two steps: signals reach the
    processes at different moments, or only some of them, and all must stop at the same step.
    """
    here = STOP_SIGNALS.index(interrupt.reason) + 1 if interrupt.requested else 0
    agreed = torch.tensor([here])
    if world.size > 1:
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    if agreed:
        interrupt.request(STOP_SIGNALS[int(agreed) - 1])
    return interrupt.reason


def _meeting_point(dist_url: str, env: LaunchEnvironment) -> tuple[str, int]:
    if dist_url == "env://":
        return env.master_addr, env.master_port
    parsed = urlparse(dist_url)
    with contextlib.suppress(ValueError):  # the port is no number
        if parsed.scheme == "tcp" and parsed.hostname and parsed.port is not None:
            return parsed.hostname, parsed.port
    raise UserError(f"--dist_url must be env:// or tcp://HOST:PORT, got {dist_url!r}.")


def _refuse_shared_gpus(world: World) -> None:
    properties = torch.cuda.get_device_properties(world.device)
    mine = (socket.gethostname(), str(getattr(properties, "uuid", world.device.index)))
    everyone = gather_objects(world, mine)
    if everyone.count(mine) > 1:
        raise UserError(
            f"{everyone.count(mine)} processes on {mine[0]} share one GPU: ask for as many GPUs "
            "as tasks on each node (GPUS_PER_NODE in slurm_train.sh)."
        )


def _meet(address: str, port: int, env: LaunchEnvironment, timeout: timedelta) -> Any:
    """The key-value store that rank 0 (or torchrun's agent) serves at `address:port`."""
    try:
        # torch would retry an unknown name until the timeout, without a word.
        socket.getaddrinfo(address, port)
    except OSError:
        raise UserError(
            f"the first machine's name {address!r} cannot be resolved from "
            f"{socket.gethostname()!r}: set MASTER_ADDR to an address that can be reached."
        ) from None
    # torchrun keeps one store for all attempts, and gloo would take the first one's keys for those
    # of its restart. (With several agents each counts its own restarts: see docs/training.md.)
    attempt = "0"
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    host = f"[{address}]" if ":" in address else address
    url = f"tcp://{host}:{port}?rank={env.rank}&world_size={env.size}"
    try:
        store, _, _ = next(rendezvous(url, timeout=timeout))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"process {env.rank} of {env.size} could not meet the others at {address}:{port} "
            f"({reason}); is the port taken, or a process missing? PORT (dist_train.sh) or "
            "MASTER_PORT chooses another one."
        ) from None
    return PrefixStore(f"tcformer/attempt {attempt}", store)


def _mute() -> None:
    """Send this process's standard output nowhere, whoever writes it."""
    os.close(silence(1))
    if sys.stdout.fileno() != 1:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    warnings.simplefilter("ignore")  # the main process shows them once

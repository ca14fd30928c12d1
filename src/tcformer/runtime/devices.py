"""A process among its peers, and the device it computes on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.torch_version import TorchVersion

from tcformer.errors import UserError
from tcformer.runtime.launcher import LaunchEnvironment, Launcher


@dataclass(frozen=True)
class World:
    """One process and its peers.

    `rank` counts over all machines and `local_rank` within this one; `size` is the number of
    processes; `device` is where this process computes; `backend` is None when it is alone.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: str | None = None
    launcher: Launcher = "single"
    store: Any = field(default=None, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """True on the one process that prints and writes files."""
        return self.rank == 0


def choose_device(wanted: str, env: LaunchEnvironment) -> torch.device:
    """The device `wanted` ('auto', 'cpu', 'cuda', 'cuda:N', 'mps') of one process among `env.size`.

    A GPU becomes torch's current one.

    Raises:
        UserError: no such device here, this torch cannot serve it, or more processes than GPUs.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(
            f"--device must be auto, cpu, cuda, cuda:N or mps, got {wanted!r}."
        ) from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "mps" and torch.backends.mps.is_available() and env.size == 1:
        if TorchVersion(torch.__version__) < "2.10":
            raise UserError(
                "--device mps needs torch 2.10 or newer, whose embedding_bag runs there, and this "
                f"is {torch.__version__}: update torch or use --device cpu."
            )
        return device
    if device.type != "cuda":
        raise UserError(
            f"--device {wanted} cannot be used here with {env.size} process(es): "
            "use --device auto or cpu."
        )
    if not torch.cuda.is_available():
        raise UserError(
            f"--device {wanted} asks for a GPU but torch sees none: use --device cpu, or see "
            "`tcformer doctor` for the reason."
        )
    device = torch.device("cuda", _gpu_index(device, env))
    torch.cuda.set_device(device)
    return device


def _gpu_index(device: torch.device, env: LaunchEnvironment) -> int:
    visible = torch.cuda.device_count()
    if env.size == 1:
        index = device.index or 0
    elif device.index is not None:
        raise UserError(
            f"--device {device} would put {env.size} processes on one GPU: use --device cuda."
        )
    elif env.launcher == "slurm" and visible == 1:
        index = 0  # Slurm may bind one GPU to each task; sharing is refused after meeting
    else:
        index = env.local_rank
    if index >= visible:
        number = max(env.local_size or 0, index + 1) if env.size > 1 else index + 1
        raise UserError(
            f"{number} processes on this machine need {number} GPUs but torch sees {visible}: "
            "start fewer processes, or use --device cpu."
            if env.size > 1
            else f"--device {device} does not exist: torch sees {visible} GPU(s)."
        )
    return index


# Torch's allocators, oneDNN and the libraries of a GPU each say it in their own words.
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|could not create a memory|bad_alloc"
    r"|bad allocation|(CUDNN|CUBLAS|CUDA)\w*_ALLOC_FAILED|Unable to allocate|Cannot allocate mem",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException, device: torch.device) -> str:
    """What to tell, after "ran", of an error that says memory was lacking; '' for another one."""
    text = str(error)
    said = isinstance(error, RuntimeError) and _NO_MEMORY.search(text)
    if not (said or isinstance(error, MemoryError)):
        return ""
    worker = "DataLoader worker" in text
    where = "a data worker" if worker else "the CPU" if device.type == "cpu" else str(device)
    size = re.search(r"[Tt]ried to allocate (\d+ bytes|[\d.]+ [KMGT]iB)", text)
    wanted = f" when it asked for {size[1]}" if size else ""
    advice = "fewer --num_workers" if worker else "a smaller --batch-size (--accum makes up for it)"
    return f"out of memory on {where}{wanted}; use {advice}."

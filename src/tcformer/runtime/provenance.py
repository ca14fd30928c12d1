"""What a figure depends on: the machine, the versions, the commit, the settings, the load."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import tcformer
from tcformer.ops import linear
from tcformer.ops.dispatch import unsupported_reason
from tcformer.processor import processor, usable_cores
from tcformer.runtime import timing

SETTINGS = (
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "DNNL_", "GLIBC_TUNABLES", "GOMP_", "KMP_",
    "LD_PRELOAD", "MALLOC_", "MKL_", "NVIDIA_TF32_OVERRIDE", "OMP_", "ONEDNN_", "PYTORCH_",
    "TCFORMER_", "THP_MEM_ALLOC_ENABLE", "TORCH_", "TORCHINDUCTOR_", "TRITON_",
)  # fmt: skip
"""Environment variables (or their beginnings) that change how fast torch is."""

BUSY = 0.3
"""Load average a core from which the machine counts as busy."""


def circumstances(device: torch.device) -> dict[str, Any]:
    """Everything of this module that a record begins with."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.date().isoformat(),
        "time": now.strftime("%H:%M UTC"),
        **source_version(),
        "machine": machine(device),
        "versions": versions(),
        "settings": settings(),
        "load_average_at_start": load_average(),
    }


def command_line(words: Sequence[str], program: str = "tcformer") -> str:
    """A command as it can be given again; of absolute paths only the last part is kept."""
    return " ".join([program, shlex.join(map(without_place, words))]).rstrip()


def without_place(value: Any) -> Any:
    """The last part of an absolute path, other values as they are: a record is for anybody.

    `--option=/path/to/file` is understood too, and whatever lists and mappings hold.
    """
    if isinstance(value, Mapping):
        return {key: without_place(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_place(entry) for entry in value]
    if not isinstance(value, str):
        return value
    option, equals, text = value.partition("=") if value.startswith("-") else ("", "", value)
    return option + equals + (Path(text).name if text.startswith(("/", "~")) else text)


def resident(entry: str) -> int | None:
    """Bytes of memory of this process, by the name Linux has for it ("VmRSS", "VmHWM")."""
    found = re.search(rf"^{entry}:\s*(\d+)", _text_of("/proc/self/status"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Of this process, in bytes: resident memory, and what torch held on the GPU."""
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"host_bytes": resident("VmHWM"), "gpu_bytes": on_gpu}


def _text_of(path: str) -> str:
    """A file of the system, or '' where there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, its vector units, what it reaches, cores, memory, and the accelerator if timed."""
    found: dict[str, Any] = {
        **processor().facts(),
        "products_gflops": {name: round(v / 1e9, 1) for name, v in products().items()},
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "memory_gib": round(total_memory() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.type,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found["gpu"] = card.name
        found["gpu_capability"] = f"{card.major}.{card.minor}"
        found["gpu_memory_gib"] = round(card.total_memory / 2**30, 1)
    return found


def versions() -> dict[str, str | None]:
    """Versions of everything that computes; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("tcformer", "torch", "torchvision", "timm", "triton", "numpy", "pillow"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["tcformer"] = tcformer.__version__
    found["torch"] = torch.__version__  # with its build, such as +cu132
    found["cuda"] = torch.version.cuda
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    found["cudnn"] = None if cudnn is None else str(cudnn)
    found["compiler"] = compiler()
    return found


@cache
def compiler() -> str | None:
    """The first line in which the C++ compiler tells its version."""
    for name in (os.environ.get("CXX", "").split(" ")[0], "g++", "clang++"):
        if name and (told := _output_of(name, "--version")) is not None:
            return _without_paths(told.splitlines()[0]) if told else name
    return None


@cache
def source_version() -> dict[str, Any]:
    """The commit of the sources that run, and whether they were changed since; None if unknown."""
    here = Path(__file__)
    git = ("git", "-C", str(here.parent))
    if _output_of(*git, "ls-files", "--error-unmatch", here.name) is None:
        return {"commit": None, "changed": None}  # an installed copy, or a folder without git
    commit = _output_of(*git, "rev-parse", "--short=12", "HEAD")
    # A record that was just written does not make the sources other ones.
    sources = (":/src", ":/configs", ":/examples", ":/pyproject.toml")
    changed = _output_of(*git, "status", "--porcelain", "--", *sources)
    return {"commit": commit, "changed": None if changed is None else bool(changed)}


def _output_of(*command: str) -> str | None:
    """What a command prints; None where it is missing or fails."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def settings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What was chosen and changes the speed: variables, torch's threads and precision switches."""
    found: dict[str, Any] = {
        name: _without_paths(value)
        for name, value in sorted(environment.items())
        if name.startswith(SETTINGS)
    }
    found["torch threads"] = torch.get_num_threads()
    found["float32 matmul precision"] = torch.get_float32_matmul_precision()
    pages = _text_of("/sys/kernel/mm/transparent_hugepage/enabled")  # such as always [madvise]
    found["transparent huge pages"] = pages.partition("[")[2].partition("]")[0] or None
    return found


def _without_paths(value: str) -> str:
    """Paths tell of somebody's machine and explain nothing: keep their last part."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in value.split(" "))


def load_average() -> float | None:
    """How many processes wanted to run in the last minute; None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def busy_warning(load: float | None, cores: int) -> str | None:
    """One sentence when others are using the machine, else None."""
    if load is None or load <= BUSY * cores:
        return None
    return (
        f"warning: the load average is {load:.2f} on {cores} core(s), so something else is running "
        "or was a moment ago: read ratios only, or wait and run this again."
    )


def products(side: int = 768, seconds: float = 0.05) -> dict[str, float]:
    """What matrix products in float32 reach on the CPU with torch's threads, operations a second.

    A multiplication and an addition are two. The best of the calls that fit into `seconds`, of
    each library: the one behind torch.mm ("mkl", or "blas" where this torch has no MKL) and
    oneDNN ("onednn"), where `ops.linear` can call it. The matrices are square, `side` a side.
    """
    return dict(_products(side, seconds, torch.get_num_threads()))


@cache
def _products(side: int, seconds: float, threads: int) -> dict[str, float]:
    # Not drawn: a record must not change the random numbers of the run that it is about.
    a = torch.linspace(-1, 1, side * side).view(side, side)
    blas = "mkl" if torch.backends.mkl.is_available() else "blas"
    calls: dict[str, timing.Step] = {blas: lambda _: torch.mm(a, a)}
    if unsupported_reason("onednn", "cpu") is None:
        calls["onednn"] = lambda _: linear(a, a, impl="onednn")
    with torch.inference_mode():
        times = timing.interleaved(
            calls, device=torch.device("cpu"), rounds=1000, warmup=1, turn=0.0,
            budget=seconds * len(calls),
        )  # fmt: skip
    return {name: 2 * side**3 / min(each) for name, each in times.items()}


def total_memory() -> int:
    """Bytes of memory that this process may use, a container's limit included."""
    total = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = _text_of("/sys/fs/cgroup/memory.max").strip()
    return min(int(limit), total) if limit.isdigit() else total


def has_compiler() -> str | None:
    """Why `torch.compile` cannot work on this CPU, or None."""
    if compiler() is None:
        return "torch.compile on a CPU needs a C++ compiler, and neither $CXX nor g++ is there"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "torch.compile on a CPU needs Python.h; install the headers (python3-dev)"
    return None

"""`tcformer doctor`: what this machine has, which fast paths are on, and why the others are not.

It never fails: what cannot be read becomes a line that says so, and the exit status is 0.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tcformer import __version__
from tcformer import processor as cpu
from tcformer.cli import EXTRAS
from tcformer.cli.parser import Parser
from tcformer.errors import is_installed

REQUIRED: dict[str, tuple[str, str | None]] = {
    "torch": ("2.9", None),
    "torchvision": ("0.24", None),
    "timm": ("1.0.20", "2"),
    "numpy": ("1.26", None),
    "pillow": ("11.3", "13"),
}
"""Package -> first version that works, first version that does not. A test compares pyproject."""

TOO_NEW = {"pillow": "RandAugment of the recipe asks for posterize(bits=0), which it refuses"}


@dataclass(frozen=True)
class Finding:
    """One line of the report: `status` is "ok", "off" (not there, and fine) or "warn"."""

    name: str
    value: str
    status: str = "ok"
    why: str | None = None


def main(argv: list[str]) -> int:
    """Print the report, as text or as JSON; always 0."""
    parser = Parser("doctor")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args(argv)
    report = examine()
    print(_as_json(report) if options.json else _as_text(report))
    return 0


def examine() -> dict[str, list[Finding]]:
    """Everything there is to say about this machine: section -> findings."""
    sections: dict[str, Callable[[], list[Finding]]] = {
        "versions": versions,
        "processor": processor,
        "accelerators": accelerators,
        "compilers": compilers,
        "many processes": launchers,
        "extras": extras,
        "fast paths": fast_paths,
    }
    return {name: _guarded(name, section) for name, section in sections.items()}


def _guarded(name: str, section: Callable[[], list[Finding]]) -> list[Finding]:
    # A doctor that dies of the illness is of no use: whatever goes wrong becomes a finding.
    try:
        return section()
    except Exception as problem:
        return [Finding(name, "could not be read", "warn", f"{type(problem).__name__}: {problem}")]


def _unless(name: str, why: str | None, value: str = "on") -> Finding:
    """What is on, or off for a reason."""
    return Finding(name, "off" if why else value, "off" if why else "ok", why)


def versions() -> list[Finding]:
    """Python, this package and what it stands on, with a warning where a version will not do."""
    found = [Finding("tcformer", __version__), Finding("python", platform.python_version())]
    for package, (first, too_new) in REQUIRED.items():
        version = _version(package)
        why = None
        if version is None:
            why = f"pip install '{package}>={first}'"
        elif _numbers(version) < _numbers(first):
            why = f"tcformer needs {first} or newer"
        elif too_new and _numbers(version) >= _numbers(too_new):
            reason = TOO_NEW.get(package, "tcformer has not been tried with it")
            why = f"{reason}; pip install '{package}<{too_new}'"
        found.append(Finding(package, version or "missing", "warn" if why else "ok", why))
    return found


def processor() -> list[Finding]:
    """Cores, threads, vector units and memory, as far as the system tells."""
    torch, kind = _torch(), cpu.processor()
    found = [
        Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        Finding("name", cpu.label(kind.facts())),
        Finding("vendor", kind.vendor or "not told"),
        Finding("stepping", kind.stepping or "not told"),
        Finding("cores", f"{cpu.usable_cores()} usable of {os.cpu_count()}"),
    ]
    if kind.vector_bits is not None:
        told = f" at full rate (from {kind.vector_bits_from})"
        if kind.vector_bits_from == cpu.INSTRUCTIONS:
            told = f", {cpu.INSTRUCTIONS}"
        found.append(Finding("vector width", f"{kind.vector_bits} bits{told}"))
    if torch is not None:
        found.append(Finding("torch threads", str(torch.get_num_threads())))
        found.append(Finding("vector units", torch.backends.cpu.get_cpu_capability()))
    if kind.flags:
        wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
        there = " ".join(flag for flag in wanted if flag in kind.flags)
        found.append(Finding("flags", there or "none"))
    if torch is not None:
        found += _guarded("float32 products", _products)
        found += _guarded("memory", _memory)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        why = "data workers pass batches through it and may die; enlarge it or use --num_workers 0"
        small = size < 2**30
        status = "warn" if small else "ok"
        found.append(Finding("shared memory", _gib(size), status, why if small else None))
    return found


def _products() -> list[Finding]:
    from tcformer.runtime import provenance

    names = {"mkl": "MKL", "blas": "BLAS", "onednn": "oneDNN"}
    reached = ", ".join(f"{names[k]} {v / 1e9:.0f}" for k, v in provenance.products().items())
    threads, load = _torch().get_num_threads(), provenance.load_average()
    told = f"{reached} GFLOP/s, measured now: {threads} threads, load average {load}"
    return [Finding("float32 products", told)]


def _memory() -> list[Finding]:
    from tcformer.runtime.provenance import total_memory

    return [Finding("memory", _gib(total_memory()))]


def accelerators() -> list[Finding]:
    """The GPUs that torch can use, or the reason why it uses none."""
    torch = _torch()
    if torch is None:
        return [Finding("GPU", "unknown", "warn", "torch is missing")]
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if card.major >= 8 else "no bfloat16"
        text = f"{card.name}, {_gib(card.total_memory)}, {card.major}.{card.minor}, {bf16}"
        found.append(Finding(f"cuda:{index}", text))
    if torch.backends.mps.is_available():
        found.append(Finding("mps", "Apple GPU"))
    return found or [Finding("GPU", "none", "off", _why_no_gpu(torch))]


def _why_no_gpu(torch: Any) -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch was built for CPUs only"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "CUDA_VISIBLE_DEVICES is set to nothing"
    if shutil.which("nvidia-smi") is None and shutil.which("rocm-smi") is None:
        return "no GPU driver is installed on this machine"
    return f"a driver is there but torch (built for CUDA {torch.version.cuda}) cannot use it"


def compilers() -> list[Finding]:
    """What torch.compile and our C++ kernels need on a CPU, and what Triton needs on a GPU."""
    if _torch() is None:
        return [Finding("C++ kernels", "off", "off", "torch is missing")]
    from tcformer.ops import csrc
    from tcformer.runtime import provenance

    there = csrc.library() is not None
    why = csrc.one_thread() if there else csrc.unsupported_reason()
    kernels = Finding("C++ kernels", str(csrc.location()), "ok", why)
    return [
        Finding("C++ compiler", provenance.compiler() or "not found", *_compile()),
        kernels if there else Finding("C++ kernels", "off", "off", why),
        _triton(),
    ]


def _compile() -> tuple[str, str | None]:
    from tcformer.runtime.provenance import has_compiler

    why = has_compiler()
    return "off" if why else "ok", why


def _triton() -> Finding:
    version = _version("triton")
    if version is None:
        return Finding("triton", "missing", "off", "the triton package is not installed")
    torch = _torch()
    if torch is None or not torch.cuda.is_available():
        why: str | None = "Triton kernels need a GPU; TRITON_INTERPRET=1 runs them slowly without"
    else:
        from tcformer.ops.dispatch import unsupported_reason

        why = unsupported_reason("triton", "cuda")
    return Finding("triton", version, "off" if why else "ok", why)


def launchers() -> list[Finding]:
    """Whether this process runs under torchrun or Slurm, and whether Slurm can be reached."""
    found = []
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
        found.append(Finding("torchrun", f"rank {rank} of {world}"))
    if "SLURM_JOB_ID" in os.environ:
        tasks = os.environ.get("SLURM_NTASKS", "?")
        found.append(Finding("slurm job", f"{os.environ['SLURM_JOB_ID']}, {tasks} tasks"))
    srun = shutil.which("srun")
    why = None if srun else "slurm_train.sh needs srun on the path"
    return [*found, Finding("srun", srun or "not found", "ok" if srun else "off", why)]


def extras() -> list[Finding]:
    """Optional packages, what each is for, and how to get it."""
    found = []
    for package, (module, extra, purpose) in EXTRAS.items():
        why = f"needed for {purpose}; pip install 'tcformer[{extra}]'"
        there = Finding(package, _version(package) or "present")
        found.append(there if is_installed(module) else Finding(package, "missing", "off", why))
    return found


def fast_paths() -> list[Finding]:
    """Each implementation of each op, then the faster modes of torch: on, or off and why."""
    from tcformer.ops.dispatch import report

    found = [
        _unless(f"{op}: {impl}", why, "there, slow on purpose" if impl == "reference" else "on")
        for op, impl, why in report()
    ]
    native = {"avx512_bf16", "amx_bf16", "bf16"} & set(cpu.processor().flags)
    emulated = "this processor has no bfloat16 arithmetic, torch would emulate it"
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return [
        *found,
        _unless("torch.compile", _compile()[1]),
        _unless("bfloat16 on CPU", None if native else emulated),
        _unless("large pages", why_no_large_pages(setting)),
    ]


def why_no_large_pages(setting: Path) -> str | None:
    """Why large tensors get no large pages, or None; `setting` is Linux's file about them."""
    if os.environ.get("THP_MEM_ALLOC_ENABLE", "0") == "0":
        return "THP_MEM_ALLOC_ENABLE is 0 in the environment"
    if not setting.is_file():
        return "only Linux has them, and this system does not tell of any"
    if "[never]" in setting.read_text():
        return f"the kernel has them switched off ({setting} says never)"
    return None


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except Exception:
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    """[2, 15, 0] of "2.15.0+cpu" or "2.15.0a0"; enough to compare with a lower or upper bound."""
    release = re.match(r"[\d.]*", version)
    return [int(part) for part in (release[0] if release else "").split(".") if part]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _as_json(report: dict[str, list[Finding]]) -> str:
    sections = {name: [asdict(finding) for finding in found] for name, found in report.items()}
    return json.dumps(sections, indent=2)


def _as_text(report: dict[str, list[Finding]]) -> str:
    marks = {"ok": " ", "off": "-", "warn": "!"}
    everything = [finding for found in report.values() for finding in found]
    width = max(len(finding.name) for finding in everything)
    lines = []
    for section, found in report.items():
        lines.append(f"{section}:")
        for finding in found:
            why = f"  ({finding.why})" if finding.why else ""
            lines.append(f" {marks[finding.status]} {finding.name:<{width}}  {finding.value}{why}")
    warnings = sum(finding.status == "warn" for finding in everything)
    lines.append(f"{warnings} to mend, marked with !" if warnings else "nothing to mend")
    return "\n".join(lines)

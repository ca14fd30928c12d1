"""The processor: its name, family, model and stepping, vector units, cores. Imports no torch.

Linux tells of x86 processors by family, model and stepping, of ARM ones by implementer, part,
variant and revision (`/proc/cpuinfo`); macOS by `sysctl`. What a system does not tell is None.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Processor", "label", "parse_cpuinfo", "processor", "usable_cores"]

# Family -> (models, name, bits): the width of the arithmetic units, which may be less than that of
# the instructions: Zen 4 executes AVX-512 in two halves, Zen did AVX2 so.
_AMD: dict[int, list[tuple[range, str, int]]] = {
    0x17: [(range(0x30), "Zen", 128), (range(0x30, 0x100), "Zen 2", 256)],
    0x19: [
        (range(0x10, 0x20), "Zen 4", 256),
        (range(0x60, 0x80), "Zen 4", 256),
        (range(0xA0, 0xB0), "Zen 4", 256),
        (range(0x60), "Zen 3", 256),
    ],
    0x1A: [
        (range(0x20), "Zen 5", 512),
        (range(0x20, 0x30), "Zen 5", 256),  # for laptops
        (range(0x40, 0x50), "Zen 5", 512),
    ],
}

TABLE, INSTRUCTIONS = "a table of processor families", "the widest instructions, rate not known"


@dataclass(frozen=True)
class Processor:
    """What the system tells of the first processor.

    Attributes:
        name: as the system gives it.
        vendor: such as "AuthenticAMD"; an ARM implementer's number.
        family: of x86; None elsewhere.
        model: of x86; the part number of ARM.
        stepping: of x86; variant and revision of ARM, as "r1p0".
        flags: the instruction sets.
        microarchitecture: such as "Zen 4", where the table knows it.
        vector_bits: width of the vector units, bits.
        vector_bits_from: how that is known: `TABLE` or `INSTRUCTIONS`.
    """

    name: str
    vendor: str | None = None
    family: int | None = None
    model: int | None = None
    stepping: str | None = None
    flags: tuple[str, ...] = ()
    microarchitecture: str | None = None
    vector_bits: int | None = None
    vector_bits_from: str | None = None

    def facts(self) -> dict[str, Any]:
        """For a record: all but the flags; "processor" is the name."""
        told = {key: value for key, value in asdict(self).items() if key != "flags"}
        return {"processor": told.pop("name"), **told}


def label(facts: Mapping[str, Any]) -> str:
    """Name, family and model of the machine of a record in words; earlier records tell the name."""
    words = [facts.get("microarchitecture")]
    if facts.get("family") is not None:
        words.append(f"family {facts['family']}, model {facts.get('model')}")
    known = [word for word in words if word]
    return f"{facts['processor']} ({'; '.join(known)})" if known else str(facts["processor"])


@cache
def processor() -> Processor:
    """The processor of this machine."""
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        return _by_sysctl() if platform.system() == "Darwin" else parse_cpuinfo("")


def parse_cpuinfo(text: str) -> Processor:
    """The first processor of Linux's `/proc/cpuinfo`."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() not in fields:
            fields[key.strip()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = tuple((fields.get("flags") or fields.get("Features") or "").split())
    if "CPU implementer" in fields:
        variant, revision = (_number(fields.get(f"CPU {key}")) for key in ("variant", "revision"))
        stepping = None if variant is None else f"r{variant}p{revision}"
        part = _number(fields.get("CPU part"))
        found = Processor(name, fields["CPU implementer"], None, part, stepping, flags)
    else:
        family, model = _number(fields.get("cpu family")), _number(fields.get("model"))
        stepping = fields.get("stepping")
        found = Processor(name, fields.get("vendor_id"), family, model, stepping, flags)
    return _with_units(found)


def _by_sysctl() -> Processor:
    def ask(key: str) -> str | None:
        try:
            done = subprocess.run(
                ["sysctl", "-n", f"machdep.cpu.{key}"], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() or None

    flags = " ".join(filter(None, (ask("features"), ask("leaf7_features")))).lower().split()
    return _with_units(
        Processor(
            ask("brand_string") or platform.processor() or platform.machine(),
            ask("vendor"),
            _number(ask("family")),
            _number(ask("model")),
            ask("stepping"),
            tuple(flags),
        )
    )


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        return None


def _with_units(found: Processor) -> Processor:
    """With the microarchitecture and the width of the vector units, as far as they are known."""
    for models, name, bits in _AMD.get(found.family or 0, []):
        if found.vendor == "AuthenticAMD" and found.model in models:
            return _replace(found, name, bits, TABLE)
    if "avx512f" in found.flags:
        # Intel's have a whole unit for them, or join two of 256 bits, which is the same rate.
        return _replace(found, None, 512, TABLE if found.vendor == "GenuineIntel" else INSTRUCTIONS)
    for flag, bits in (("avx2", 256), ("avx2.0", 256), ("avx", 256), ("sse2", 128)):
        if flag in found.flags:
            return _replace(found, None, bits, INSTRUCTIONS)
    if "asimd" in found.flags or platform.machine().lower() in ("arm64", "aarch64"):
        # SVE may be wider: the length is the kernel's to say.
        return _replace(found, None, max(128, _sve_bits()), INSTRUCTIONS)
    return found


def _replace(found: Processor, name: str | None, bits: int, how: str) -> Processor:
    return replace(found, microarchitecture=name, vector_bits=bits, vector_bits_from=how)


def _sve_bits() -> int:
    try:
        return 8 * int(Path("/proc/sys/abi/sve_default_vector_length").read_text())
    except (OSError, ValueError):
        return 0


def usable_cores() -> int:
    """Cores that this process may use; fewer than the machine has inside a container or a job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""What a system tells of its processor, and what follows from it."""

import platform
from types import SimpleNamespace

import pytest

from tcformer import processor
from tcformer.processor import INSTRUCTIONS, TABLE, label, parse_cpuinfo


def x86(vendor, family, model, flags, name="AMD EPYC"):
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: {name}\nstepping\t: 1\nflags\t\t: fpu {flags}\nbogomips\t: 1\n\n"
        "processor\t: 1\nmodel name\t: another\n"
    )


@pytest.mark.parametrize(
    ("vendor", "family", "model", "flags", "found"),
    [
        ("AuthenticAMD", 23, 1, "avx2", ("Zen", 128, TABLE)),
        ("AuthenticAMD", 23, 49, "avx2", ("Zen 2", 256, TABLE)),
        ("AuthenticAMD", 25, 1, "avx2", ("Zen 3", 256, TABLE)),
        ("AuthenticAMD", 25, 33, "avx2", ("Zen 3", 256, TABLE)),
        ("AuthenticAMD", 25, 17, "avx2 avx512f", ("Zen 4", 256, TABLE)),
        ("AuthenticAMD", 25, 97, "avx2 avx512f", ("Zen 4", 256, TABLE)),
        ("AuthenticAMD", 25, 160, "avx2 avx512f", ("Zen 4", 256, TABLE)),
        ("AuthenticAMD", 26, 2, "avx2 avx512f", ("Zen 5", 512, TABLE)),
        ("AuthenticAMD", 26, 36, "avx2 avx512f", ("Zen 5", 256, TABLE)),
        ("AuthenticAMD", 99, 1, "avx2 avx512f", (None, 512, INSTRUCTIONS)),
        ("GenuineIntel", 6, 143, "avx2 avx512f", (None, 512, TABLE)),
        ("GenuineIntel", 6, 158, "avx avx2", (None, 256, INSTRUCTIONS)),
        ("GenuineIntel", 6, 23, "sse2", (None, 128, INSTRUCTIONS)),
    ],
)
def test_x86(vendor, family, model, flags, found):
    one = parse_cpuinfo(x86(vendor, family, model, flags))
    assert (one.vendor, one.family, one.model, one.stepping) == (vendor, family, model, "1")
    assert (one.microarchitecture, one.vector_bits, one.vector_bits_from) == found
    assert one.name == "AMD EPYC"
    assert "fpu" in one.flags


def test_arm(monkeypatch):
    monkeypatch.setattr(processor, "_sve_bits", lambda: 0)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    text = (
        "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd bf16\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd40\nCPU revision\t: 1\n"
    )
    one = parse_cpuinfo(text)
    assert (one.name, one.vendor, one.family) == ("aarch64", "0x41", None)
    assert (one.model, one.stepping, one.vector_bits) == (0xD40, "r1p1", 128)
    assert "bf16" in one.flags
    monkeypatch.setattr(processor, "_sve_bits", lambda: 256)
    assert parse_cpuinfo(text).vector_bits == 256


@pytest.mark.parametrize("text", ["", "nothing of use\n", "cpu family : many\nmodel : \n"])
def test_a_system_that_tells_nothing(text, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    one = parse_cpuinfo(text)
    assert one.name
    assert (one.family, one.model, one.vector_bits) == (None, None, None)
    assert label(one.facts()) == one.name


def test_macos(monkeypatch):
    told = {"brand_string": "Apple M4"}

    def run(command, **_):
        return SimpleNamespace(stdout=told.get(command[-1].removeprefix("machdep.cpu."), ""))

    monkeypatch.setattr(processor.subprocess, "run", run)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    one = processor._by_sysctl()
    assert (one.name, one.family, one.vector_bits) == ("Apple M4", None, 128)
    told |= {"brand_string": "Intel", "vendor": "GenuineIntel", "family": "6", "model": "158",
             "stepping": "10", "features": "FPU SSE2 AVX1.0", "leaf7_features": "AVX2"}  # fmt: skip
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    one = processor._by_sysctl()
    assert (one.family, one.model, one.stepping, one.vector_bits) == (6, 158, "10", 256)

    def missing(*_, **__):
        raise OSError

    monkeypatch.setattr(processor.subprocess, "run", missing)
    assert processor._by_sysctl().name


def test_label():
    facts = parse_cpuinfo(x86("AuthenticAMD", 25, 17, "avx512f")).facts()
    assert label(facts) == "AMD EPYC (Zen 4; family 25, model 17)"
    assert label({"processor": "AMD EPYC"}) == "AMD EPYC"  # an earlier record

"""`tcformer doctor` reads this machine, explains what is off, and never fails."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tcformer.cli import doctor, main

ROOT = Path(__file__).parents[2]


def test_text_has_every_section(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for section in ("versions:", "processor:", "accelerators:", "compilers:", "fast paths:"):
        assert section in text.splitlines()
    assert "torch.compile" in text


def test_the_processor_and_what_it_reaches_are_told():
    from tcformer.processor import processor

    told = {finding.name: finding.value for finding in doctor.processor()}
    assert processor().name in told["name"]
    assert re.search(r"(MKL|BLAS) \d+.* GFLOP/s, measured", told["float32 products"])
    if processor().family is not None:
        assert f"family {processor().family}, model {processor().model}" in told["name"]


def test_json_says_the_same(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == list(doctor.examine())
    names = {finding["name"] for finding in report["versions"]}
    assert set(doctor.REQUIRED) <= names
    for found in report.values():
        for finding in found:
            assert finding["status"] in ("ok", "off", "warn")
            if finding["status"] != "ok":
                assert finding["why"], f"{finding['name']} is off without a reason"


def test_every_op_reports_every_implementation():
    from tcformer.ops.dispatch import report

    lines = {finding.name: finding for finding in doctor.fast_paths()}
    assert len(report()) > 0
    for op, impl, why in report():
        assert lines[f"{op}: {impl}"].why == why
        assert (lines[f"{op}: {impl}"].status == "ok") == (why is None)


def test_ranges_are_those_of_pyproject():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ranges = {}
    for line in wanted:
        name, first, too_new = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<([\d.]+))?", line).groups()
        ranges[name] = (first, too_new)
    assert {name: ranges[name] for name in doctor.REQUIRED} == doctor.REQUIRED


def test_extras_are_those_of_pyproject():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for package, (_, extra, _) in doctor.EXTRAS.items():
        assert any(line.startswith(package) for line in groups[extra])


@pytest.mark.parametrize(
    ("pillow", "status"), [("9.5.0", "warn"), ("12.3.0", "ok"), ("13.0.0", "warn")]
)
def test_versions_out_of_range_are_warned_about(monkeypatch, pillow, status):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: pillow if name == "pillow" else real(name))
    finding = next(finding for finding in doctor.versions() if finding.name == "pillow")
    assert finding.status == status
    assert finding.value == pillow
    assert (finding.why is None) == (status == "ok")


def test_a_missing_package_comes_with_its_cure(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert all("pip install" in finding.why for finding in doctor.versions()[2:])
    assert all("pip install 'tcformer[" in finding.why for finding in doctor.extras())


def test_it_survives_a_machine_without_torch(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_torch", lambda: None)
    assert main(["doctor"]) == 0
    assert "torch is missing" in capsys.readouterr().out


@pytest.mark.parametrize("section", ["versions", "processor", "launchers", "fast_paths"])
def test_it_survives_any_section(section, monkeypatch, capsys):
    def fail():
        raise OSError("no such thing here")

    monkeypatch.setattr(doctor, section, fail)
    assert main(["doctor"]) == 0
    assert "no such thing here" in capsys.readouterr().out


def test_the_environment_of_a_launcher_is_seen(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    values = {finding.name: finding.value for finding in doctor.launchers()}
    assert values["torchrun"] == "rank 1 of 4"
    assert values["slurm job"] == "7, 4 tasks"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2.15.0+cpu", (2, 15, 0)),
        ("2.9.0a0", (2, 9, 0)),
        ("13", (13,)),
        ("1.0.20.dev3", (1, 0, 20)),
    ],
)
def test_numbers_of_a_version(text, numbers):
    assert doctor._numbers(text) == numbers


def test_no_compiler_is_explained(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    finding = doctor._cpp_compiler()
    assert finding.status == "off"
    assert "C++ compiler" in finding.why


def test_large_pages_are_on_or_the_reason_is_told(tmp_path, monkeypatch):
    setting = tmp_path / "enabled"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    assert "only Linux" in doctor.why_no_large_pages(setting)
    setting.write_text("always madvise [never]\n")
    assert "switched off" in doctor.why_no_large_pages(setting)
    setting.write_text("always [madvise] never\n")
    assert doctor.why_no_large_pages(setting) is None
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert "is 0" in doctor.why_no_large_pages(setting)

"""`tcformer doctor` reads this machine, explains what is off, and never fails."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tcformer.cli import doctor, main
from tcformer.runtime import provenance

ROOT = Path(__file__).parents[2]


def test_text_and_json_say_the_same_and_every_warning_has_a_reason(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(doctor.REQUIRED) <= {finding["name"] for finding in report["versions"]}
    for section, found in report.items():
        assert f"{section}:" in text
        for finding in found:
            assert any(finding["name"] in line for line in text)
            assert finding["status"] in ("ok", "off", "warn")
            if finding["status"] != "ok":
                assert finding["why"], f"{finding['name']} is off without a reason"


def test_the_processor_and_what_it_reaches_are_told():
    from tcformer.processor import processor

    told = {finding.name: finding.value for finding in doctor.processor()}
    assert processor().name in told["name"]
    assert re.search(r"(MKL|BLAS) \d+.* GFLOP/s, measured", told["float32 products"])
    if processor().family is not None:
        assert f"family {processor().family}, model {processor().model}" in told["name"]


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
    ("pillow", "status"),
    [("9.5.0", "warn"), ("11.3", "ok"), ("12.3.0+cpu", "ok"), ("13.0.0a0", "warn"), ("13", "warn")],
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


def test_it_survives_a_machine_without_torch_or_compiler(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_torch", lambda: None)
    assert main(["doctor"]) == 0
    assert "torch is missing" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(provenance, "compiler", lambda: None)
    lines = {finding.name: finding for finding in doctor.compilers() + doctor.fast_paths()}
    for name in ("C++ compiler", "torch.compile"):
        assert (lines[name].status, "C++ compiler" in lines[name].why) == ("off", True)


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

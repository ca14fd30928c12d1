"""The wheel holds everything, and works where there is no clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built by the backend that is installed here: nothing is downloaded."""
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel in it and nothing of the clone."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-compile",
    ]
    result = subprocess.run(
        [*command, "--target", str(folder), str(wheel)], capture_output=True, text=True, timeout=120
    )
    if "No module named pip" in result.stderr:  # an environment made by uv has none
        zipfile.ZipFile(wheel).extractall(folder)
    else:
        assert result.returncode == 0, result.stderr
    return folder


def run(installed: Path, *args: str) -> subprocess.CompletedProcess[str]:
    rest = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    elsewhere = [path for path in rest if not Path(path).resolve().is_relative_to(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *elsewhere])}
    return subprocess.run(
        [sys.executable, *args],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_it_holds_every_module_and_config(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "src").rglob("*.py"):
        assert path.relative_to(ROOT / "src").as_posix() in names
    sources = [p for ending in ("cpp", "h") for p in (ROOT / "src").rglob(f"*.{ending}")]
    assert sources
    for path in sources:
        assert path.relative_to(ROOT / "src").as_posix() in names
    configs = list((ROOT / "configs").rglob("*.py"))
    assert len(configs) >= 3
    for path in configs:
        assert f"tcformer/{path.relative_to(ROOT).as_posix()}" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_the_command_is_there(installed):
    result = run(installed, "-m", "tcformer", "--version")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("tcformer ")
    scripts = [
        path.name for folder in ("bin", "Scripts") for path in (installed / folder).glob("*")
    ]
    assert not scripts or any(name.startswith("tcformer") for name in scripts)


def test_it_is_the_wheel_that_runs(installed):
    result = run(installed, "-c", "import tcformer; print(tcformer.__file__)")
    assert Path(result.stdout.strip()).is_relative_to(installed)


def test_a_shipped_config_is_found_by_name(installed):
    args = ["configs/tcformer/tcformer_light.py", "--model", "tcformer_nano", "--num-workers", "0"]
    small = ["--data-set", "fake", "--input-size", "32", "--batch-size", "2", "--device", "cpu"]
    result = run(installed, "-m", "tcformer", "train", *args, *small, "--dry-run")
    assert result.returncode == 0, result.stdout + result.stderr

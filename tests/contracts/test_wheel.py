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
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    command.append("--no-compile")
    result = subprocess.run(
        [*command, "--target", str(folder), str(wheel)], capture_output=True, text=True, timeout=120
    )
    if "No module named pip" in result.stderr:  # an environment made by uv has none
        zipfile.ZipFile(wheel).extractall(folder)
    else:
        assert result.returncode == 0, result.stderr
    return folder


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


CODE = """
import sys, tcformer
from tcformer.cli import main
print(tcformer.__file__)
assert main(["--version"]) == 0
sys.exit(main(sys.argv[1:]))
"""


def test_it_runs_without_the_clone_and_finds_a_shipped_config(installed):
    rest = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    elsewhere = [path for path in rest if not Path(path).resolve().is_relative_to(ROOT)]
    args = ["train", "configs/tcformer/tcformer_light.py", "--model", "tcformer_nano"]
    args += ["--num-workers", "0", "--data-set", "fake", "--input-size", "32"]
    result = subprocess.run(
        [sys.executable, "-c", CODE, *args, "--batch-size", "2", "--device", "cpu", "--dry-run"],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *elsewhere])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    place, version, *_ = result.stdout.splitlines()
    assert Path(place).is_relative_to(installed)
    assert version.startswith("tcformer ")
    scripts = [
        path.name for folder in ("bin", "Scripts") for path in (installed / folder).glob("*")
    ]
    assert not scripts or any(name.startswith("tcformer") for name in scripts)

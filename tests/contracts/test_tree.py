"""What the tree must hold, and what it must not."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPS = sorted(path.parent.name for path in ROOT.glob("src/tcformer/ops/*/reference.py"))
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "Makefile")


@cache
def tracked() -> tuple[Path, ...]:
    """The files that belong to the project: those git tracks, or all that an archive holds."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0:
        names = [name for name in listing.stdout.split("\0") if name]
        return tuple(path for name in names if (path := ROOT / name).is_file())
    folders = ("src", "tests", "configs", "docs", "benchmarks", "examples", "checks", ".ci")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return tuple(path for path in found if "__pycache__" not in path.parts)


@cache
def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8000]:
            found.append((path, data.decode("utf-8")))
    return found


def test_the_usual_files_are_there():
    assert all((ROOT / name).stat().st_size > 0 for name in TOP)


def test_no_source_file_is_long():
    lengths = {p: len(p.read_text().splitlines()) for p in ROOT.glob("src/**/*.py")}
    assert len(lengths) > 30
    assert [f"{p} ({n})" for p, n in lengths.items() if n > 800] == []


def test_no_path_of_a_developers_machine():
    machine = re.compile(r"(?<![\w.-])/(?:work|farm|opt|root|home)/(?!\.\.\.)\w")
    found = [f"{path}: {hit.group()}" for path, text in texts() for hit in machine.finditer(text)]
    assert found == []


def test_no_address_of_a_registry():
    registry = re.compile(r"(?:pypi\.|pythonhosted|index-url\s*=?\s*\S*//|/simple/)")
    found = [f"{path}: {hit.group()}" for path, text in texts() for hit in registry.finditer(text)]
    assert [told for told in found if not told.startswith(__file__)] == []


def test_nothing_tracked_is_large():
    assert [f"{p}" for p in tracked() if p.stat().st_size > 1_500_000] == []


def test_nothing_is_left_for_later():
    later = re.compile(r"NotImplementedError|\b(?:TODO|FIXME|XXX)\b")
    found = [p for p in ROOT.glob("src/**/*.py") if later.search(p.read_text())]
    assert found == []


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_whole(op):
    assert (ROOT / "tests" / "ops" / f"test_{op}.py").exists()
    assert (ROOT / "src" / "tcformer" / "ops" / op / "eager.py").exists()


def test_the_mypy_settings_name_modules_that_exist():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    strict = next(o["module"] for o in settings["overrides"] if "disallow_untyped_defs" in o)
    for module in strict:
        path = ROOT / "src" / module.removesuffix(".*").replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
    assert {"tcformer.tokens", "tcformer.ops.*", "tcformer.training.*"} <= set(strict)


def locked() -> dict[str, list[str]]:
    """Package -> versions pinned in the lock (several where they depend on the Python)."""
    pins: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock_text(), re.M):
        pins.setdefault(name, []).append(version)
    return pins


def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text()


def test_the_lock_holds_no_address():
    for line in lock_text().splitlines():
        assert "://" not in line, line
        assert "file:" not in line, line
        assert not line.startswith("-"), line


def test_every_pin_of_the_lock_has_a_hash():
    stanzas = re.split(r"\n(?=\w)", lock_text())
    assert len(stanzas) > 50
    assert [s.splitlines()[0] for s in stanzas if "--hash=sha256:" not in s] == []


def test_the_lock_covers_pyproject():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = [Requirement(line) for group in groups for line in group]
    pins = locked()
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"]:
            continue  # an extra that includes other extras of ours
        assert name in pins, f"{name}: run `make lock`"
        for version in pins[name]:
            assert requirement.specifier.contains(version), f"{name} {version}: run `make lock`"


def test_uv_can_be_cut_out_of_the_lock():
    # The Makefile installs uv first, from its own stanza; the awk line stands there.
    script = re.search(r"awk '(.*?)' requirements.lock", (ROOT / "Makefile").read_text()).group(1)
    cut = subprocess.run(
        ["awk", script.replace("$$", "$"), "requirements.lock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert cut.startswith("uv==")
    assert cut.count("==") == 1
    assert not cut.rstrip().endswith("\\")


@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."]])
def test_ruff_is_content(tool):
    result = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout

"""Imports point one way: the contracts of pyproject hold, and they would notice a violation."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tcformer"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
OPS = sorted(path.parent.name for path in SOURCE.glob("ops/*/reference.py"))


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    """Check the package in folder `source` against the contracts of pyproject."""
    code = (
        "from importlinter.cli import lint_imports; import sys;"
        f"sys.exit(lint_imports(config_filename={str(ROOT / 'pyproject.toml')!r}, no_cache=True))"
    )
    environment = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=source, env=environment
    )


def test_the_contracts_hold():
    result = lint(ROOT / "src")
    assert result.returncode == 0, result.stdout


PLANTED = {
    "tokens.py": "tcformer.models",
    "ops/dispatch.py": "tcformer.models",
    "models/flops.py": "tcformer.training",
    "training/__init__.py": "tcformer.tasks",
    "data/__init__.py": "tcformer.cli",
    "weights/remap.py": "tcformer.zoo",
    "ops/regroup/eager.py": "tcformer.ops.regroup.reference",
}
"""File -> what it must not import."""


def planted(folder: Path, lines: dict[str, str]) -> Path:
    """A copy of the package whose files have one more line each."""
    shutil.copytree(SOURCE, folder / "tcformer", ignore=shutil.ignore_patterns("__pycache__"))
    for module, line in lines.items():
        path = folder / "tcformer" / module
        path.write_text(f"{path.read_text()}\n{line}\n")
    return folder


def test_planted_violations_are_found(tmp_path):
    result = lint(planted(tmp_path, {file: f"import {what}" for file, what in PLANTED.items()}))
    assert result.returncode == 1
    found = re.sub(r"\s+", " ", result.stdout)
    for file, what in PLANTED.items():
        importer = f"tcformer.{file.removesuffix('.py').replace('/', '.')}"
        assert f"- {importer.removesuffix('.__init__')} -> {what} (" in found


def circle(source: Path) -> list[str]:
    """The files of a circle of imports among those of a package, if there is one.

    An import counts wherever it stands, in a function too. One under TYPE_CHECKING only names
    types, and that a file is run after the `__init__` above it says nothing.
    """
    code = (
        "import grimp, graphlib, json\n"
        "options = {'exclude_type_checking_imports': True, 'cache_dir': None}\n"
        "graph = grimp.build_graph('tcformer', **options)\n"
        "try: graphlib.TopologicalSorter(\n"
        "    {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}).prepare()\n"
        "except graphlib.CycleError as error: print(*error.args[1])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()


def test_no_imports_go_in_a_circle():
    assert circle(ROOT / "src") == []


def test_a_planted_circle_is_found(tmp_path):
    late = "def late():\n    from tcformer.weights.load import LoadReport"
    found = circle(planted(tmp_path, {"weights/remap.py": late}))
    assert {"tcformer.weights.remap", "tcformer.weights.load"} <= set(found)


def test_every_module_has_a_layer():
    layers = next(c for c in SETTINGS["contracts"] if c["type"] == "layers")["layers"]
    listed = {name.strip() for layer in layers for name in layer.replace(":", "|").split("|")}
    optional = {name.strip("()") for name in listed if name.startswith("(")}
    named = {name for name in listed if not name.startswith("(")}
    there = {
        f"tcformer.{path.stem}"
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert named | (optional & there) == there - {"tcformer.__init__"}


@pytest.mark.parametrize("op", OPS)
def test_implementations_of_an_op_do_not_know_each_other(op):
    implementations = {
        f"tcformer.ops.{op}.{name}"
        for name in ("reference", "eager", "export", "cpp", "onednn", "triton")
        if (SOURCE / "ops" / op / f"{name}.py").exists()
    }
    contracts = [c for c in SETTINGS["contracts"] if c["type"] == "independence"]
    assert any(implementations == set(contract["modules"]) for contract in contracts)


def test_ops_are_functions():
    for path in SOURCE.glob("ops/**/*.py"):
        assert "nn.Module" not in path.read_text(), f"{path}: modules belong in models/"

"""Each example, run as a user runs it, ends far above where it started."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Script and arguments, what its last lines name, the least it must reach (percent). Untrained it
# is at 33 % of classified shapes and 20 % of IoU, or below.
CASES = [
    ("features_only.py", {"mean IoU": 60}),
    ("smp_segmentation.py --decoder FPN", {"mean IoU": 60}),
    ("smp_segmentation.py --decoder UPerNet", {"mean IoU": 60}),
    ("transformers_models.py", {"mean IoU": 50, "TimmWrapper, trained:": 75}),
]
NEEDS = {
    "smp_segmentation.py": "segmentation_models_pytorch",
    "transformers_models.py": "transformers",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("command", "least"), CASES, ids=[command for command, _ in CASES])
def test_it_learns(command, least):
    script, *options = command.split()
    if script in NEEDS:
        pytest.importorskip(NEEDS[script], reason=f"{NEEDS[script]} is not installed")
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert result.returncode == 0, result.stderr
    for name, bound in least.items():
        found = [float(x) for x in re.findall(rf"{re.escape(name)} ([\d.]+) %", result.stdout)]
        assert found[-1] >= bound, result.stdout
        assert found[-1] > found[0] + 10 or len(found) == 1, result.stdout


@pytest.mark.parametrize(
    "script",
    [s if i == 0 else pytest.param(s, marks=pytest.mark.slow) for i, s in enumerate(NEEDS)],
)
def test_a_missing_library_is_named(script, tmp_path):
    (tmp_path / f"{NEEDS[script]}.py").write_text(
        f"raise ModuleNotFoundError('gone', name='{NEEDS[script]}')"
    )
    code = (
        f"import runpy, sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT / 'examples')!r}]; "
        f"runpy.run_path({str(ROOT / 'examples' / script)!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: this example needs {NEEDS[script]}; install it")
    assert result.stderr.count("\n") == 1


def test_every_example_is_run_or_imported_by_one_that_is():
    scripts = {p.name for p in (ROOT / "examples").glob("*.py") if "__main__" in p.read_text()}
    # That one draws the data of docs/results.md; contracts/test_blocks.py runs it.
    assert {command.split()[0] for command, _ in CASES} == scripts - {"letters.py"}


def test_the_docs_name_them_all():
    page = (ROOT / "docs" / "dense.md").read_text()
    shown = re.findall(r"^python examples/(.*)$", page, re.M)
    assert shown == [command for command, _ in CASES]

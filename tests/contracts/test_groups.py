"""Who runs which test: a group stays together (a Slurm relies on it), the longest start first."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOUR = """
import os, pathlib, time
import pytest

pytestmark = pytest.mark.xdist_group("together")


@pytest.mark.parametrize("number", range(4))
def test_number(number):
    worker = os.environ["PYTEST_XDIST_WORKER"]
    pathlib.Path(__file__).with_name(f"{number}-{worker}.ran").touch()
    time.sleep(0.2)
"""


@pytest.mark.slow
def test_a_group_stays_in_one_worker(tmp_path):
    (tmp_path / "test_four.py").write_text(FOUR)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup"]
    # Not the variables of the xdist that this test itself runs under.
    env = {name: v for name, v in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, *words, "test_four.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = sorted(path.stem for path in tmp_path.glob("*.ran"))
    assert [name[0] for name in ran] == list("0123")
    assert len({name.partition("-")[2] for name in ran}) == 1, f"pytest-xdist splits groups: {ran}"


def test_the_longest_start_first(pytestconfig):
    here = Path(__file__).parents[1] / "conftest.py"
    plugins = pytestconfig.pluginmanager.get_plugins()
    (conftest,) = [p for p in plugins if getattr(p, "__file__", None) == str(here)]

    def item(name, mark=None):
        return SimpleNamespace(name=name, get_closest_marker=lambda _: mark and mark.mark)

    slow = pytest.mark.slow
    items = [item("a"), item("b", slow), item("c", slow(seconds=2)), item("d", slow(seconds=200))]
    conftest.pytest_collection_modifyitems(items)
    assert [each.name for each in items] == ["d", "c", "a", "b"]

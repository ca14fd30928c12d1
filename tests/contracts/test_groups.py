"""Tests of one group run one after another: those that share a port or a Slurm rely on it."""

import os
import subprocess
import sys

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

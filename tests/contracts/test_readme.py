"""The README's commands are run as they are printed, on data small enough for a test.

Placeholders are replaced by generated files, and options are *added* to keep a run small; what is
printed stays. A command that no case below knows fails the test.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks, commands, image_folder, stand_in, stand_in_for_srun
from recorded import whole_record

from tcformer import cli

README = (ROOT / "README.md").read_text()
SET_UP = ("make demo", "make test")


COMMANDS = commands(README)

TINY = "--model tcformer_nano --input-size 32 --batch-size 2 --epochs 1 --num_workers 0 --amp off"

# It runs until it is stopped: its options are read here, tests/serve starts it.
SERVE = "tcformer serve"

# Beginning of a command -> what is added to it in the fast tests.
ADDED = {
    "tcformer ": "",
    "sh dist_train.sh": "--num_workers 0 --device cpu --output_dir {tmp}/out",
    "GPUS=16 ./slurm_train.sh": "",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the placeholders' files, and with a stand-in for `srun`."""
    folder = tmp_path_factory.mktemp("readme")
    image_folder(folder / "imagenet")
    shutil.copytree(ROOT / "docs" / "images", folder / "docs" / "images")
    stand_in_for_srun(folder / "bin", folder / "srun.txt")
    return folder


@pytest.fixture(scope="module")
def checkpoint(place) -> Path:
    """`/path/to/tcformer.pth`: the model of the command, for the two classes of the data."""
    import torch

    from tcformer import create_model

    path = place / "tcformer.pth"
    torch.manual_seed(0)
    torch.save({"model": create_model("tcformer", num_classes=2).state_dict()}, path)
    return path


def run(command: str, place: Path, python: str = sys.executable) -> str:
    command = command.replace("/path/to/imagenet", str(place / "imagenet"))
    command = command.replace("/path/to/tcformer.pth", str(place / "tcformer.pth"))
    command = command.replace("work_dirs/tcformer", str(place / "work_dir"))
    assert "/path/to" not in command
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": python,
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def the(beginning: str, *words: str) -> str:
    """The one command that starts like this and has these words in it."""
    (command,) = [c for c in COMMANDS if c.startswith(beginning) and all(w in c for w in words)]
    return command


def test_every_command_is_known():
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        known = command in SET_UP or command.startswith(tuple(ADDED))
        assert known, f"{command}: say in this test how it is run"


def test_serving():
    from tcformer.cli import serve

    (command,) = [c for c in COMMANDS if c.startswith(SERVE)]
    serve._parse(shlex.split(command)[2:])


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith("tcformer ") and not c.startswith(SERVE)]
)
def test_verbs(command, place, monkeypatch):
    monkeypatch.chdir(place)
    words = shlex.split(command)[1:]
    assert cli.main(words) == 0  # in this process: importing torch once more takes seconds
    if "--out" in words:
        assert (place / words[words.index("--out") + 1]).stat().st_size > 0


def test_evaluation(place, checkpoint):
    command = the("sh dist_train.sh", "--eval")
    out = run(f"{command} {ADDED['sh dist_train.sh'].format(tmp=place)}", place)
    assert re.search(r"^\* Acc@1 \d+\.\d{3} Acc@5 \d+\.\d{3} loss \d+\.\d{3}$", out, re.M)
    assert re.search(r"^Accuracy of the network on the 6 test images: \d+\.\d%$", out, re.M)
    kept = whole_record(place / "out" / "evaluation.json", "evaluation")
    assert kept["weights"] == "tcformer.pth"
    assert f"* Acc@1 {kept['result']['acc1']:.3f} " in out


def training_command() -> str:
    (command,) = [c for c in COMMANDS if c.startswith("sh dist_train.sh") and "--eval" not in c]
    assert " 8 " in command
    return command


def test_training_on_one_process(place):
    command = training_command().replace(" 8 ", " 1 ")
    run(f"{command} {TINY} {ADDED['sh dist_train.sh'].format(tmp=place)}", place)
    assert (place / "out" / "checkpoint.pth").exists()


@pytest.mark.slow
def test_training_on_eight_processes(place):
    added = ADDED["sh dist_train.sh"].format(tmp=place / "eight")
    run(f"{training_command()} {TINY} {added}", place)
    assert (place / "eight" / "out" / "checkpoint.pth").exists()


def test_slurm(place, monkeypatch):
    """What srun is told, and what reaches `tcformer train`; tests/slurm runs it on a cluster."""
    python = stand_in(place / "bin" / "noting", f'echo "$@" >> {place}/noted.txt')
    command = the("GPUS=16 ./slurm_train.sh")
    run(command, place, python=str(python))
    options = (place / "srun.txt").read_text().split()
    assert {"--partition=PARTITION", "--job-name=JOB_NAME", "--ntasks=16"} <= set(options)
    assert {"--gres=gpu:8", "--ntasks-per-node=8", "--cpus-per-task=5"} <= set(options)
    words = (place / "noted.txt").read_text().splitlines()[-1].split()
    assert words[:4] == ["-u", "-m", "tcformer", "train"]
    assert cli.main([*words[3:], *TINY.split(), "--device", "cpu", "--dry-run"]) == 0


@pytest.mark.parametrize("text", [text for _, text in blocks(README, "python")])
def test_python(text, capsys):
    exec(compile(text, "README.md", "exec"), {"__name__": "__main__"})
    promised = [int(number) for number in re.findall(r"\d+", text.rpartition("#")[2])]
    shown = re.findall(r"\[1, (\d+), \d+\]", capsys.readouterr().out)
    assert [int(number) for number in shown] == promised


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_set_up_in_a_fresh_clone(tmp_path):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone to clone from")
    assert all(command in COMMANDS for command in SET_UP)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    # What the make around this test was told is not for the makes inside it.
    mine = (
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "ARGS",
        "MAKEFLAGS",
        "MAKEOVERRIDES",
        "MAKELEVEL",
        "MFLAGS",
    )
    environment = {k: v for k, v in os.environ.items() if k not in mine}
    # The suite is what runs this test, and tests/cli/test_demo.py the whole demo: only the set-up
    # and a part of each are repeated.
    for command in ('make demo ARGS="--epochs 1"', "make test ARGS=tests/cli/test_train.py"):
        result = subprocess.run(
            shlex.split(command),
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, (
            f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        )
    assert subprocess.run([clone / ".venv/bin/tcformer", "--version"]).returncode == 0
    status = ["git", "-C", str(clone), "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True).stdout == ""

"""The launcher and `dist_train.sh`: environment, signals, exit statuses. No torch in here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, clean_env, free_port

from tcformer.errors import UserError
from tcformer.runtime import launch
from tcformer.runtime.launch import Plan, plan_from

# What stands in for `tcformer` here: it tells its environment, then behaves as told.
WORKER = r"""
import os, signal, sys, time
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
rank, how = os.environ["RANK"], sys.argv[1]
got = []
for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
    signal.signal(getattr(signal, name), lambda number, _: got.append(signal.Signals(number).name))
# In one write: several processes share the pipe.
sys.stdout.write(" ".join(["worker", *(os.environ.get(n, "") for n in names)]) + "\n")
sys.stdout.flush()
if how == "done":
    sys.exit(0)
if how.startswith("fail") and rank == "1":
    sys.exit(int(how[4:]))
if how == "killed" and rank == "1":
    os.kill(os.getpid(), 9)
end = time.monotonic() + 30
while not got and time.monotonic() < end:
    time.sleep(0.02)
time.sleep(0.3 * int(rank))  # the last one is slow to save
sys.stdout.write(f"saved {rank} {got[0]}\n")
sys.stdout.flush()
sys.exit(75)
"""

RUN = """
import json, sys
from tcformer.runtime import launch
from tcformer.runtime.launch import Plan, run
launch._GRACE_AFTER_FAILURE = 0.5  # the workers would wait for 30 s
sys.exit(run(Plan(**json.loads(sys.argv[1])), [sys.executable, "-c", *sys.argv[2:]]))
"""


def start(how: str, num: int = 2, env: dict[str, str] | None = None, **plan: object):
    fields = json.dumps({"num_processes": num, "master_port": 1, **plan})
    return subprocess.Popen(
        [sys.executable, "-c", RUN, fields, WORKER, how],
        env=clean_env() if env is None else env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_process_learns_its_place():
    env = clean_env(TORCHELASTIC_USE_AGENT_STORE="True")
    del env["OMP_NUM_THREADS"]
    out, _ = start("done", 2, env, num_machines=3, machine=1, master_addr="head").communicate()
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert sorted(out.splitlines()) == [
        f"worker 2 0 6 2 head {threads}",
        f"worker 3 1 6 2 head {threads}",
    ]


def test_threads_chosen_by_hand_are_kept():
    plan = Plan(2)
    assert plan.variables(0, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in Plan(1).variables(0, {})
    assert "TORCHELASTIC_RESTART_COUNT" not in plan.variables(
        0, {"TORCHELASTIC_RESTART_COUNT": "1"}
    )


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGINT"])
def test_signals_reach_all_and_all_may_save(name):
    launcher = start("wait", 2)
    assert launcher.stdout is not None
    for _ in range(2):
        launcher.stdout.readline()
    launcher.send_signal(getattr(signal, name))
    out, err = launcher.communicate(timeout=20)
    assert sorted(out.splitlines()) == [f"saved 0 {name}", f"saved 1 {name}"]
    assert (launcher.returncode, err) == (75, "")


@pytest.mark.parametrize(
    ("how", "status", "said"), [("fail2", 2, ""), ("killed", 137, "process 1 of 2 was killed")]
)
def test_one_failure_ends_all(how, status, said):
    begin = time.monotonic()
    launcher = start(how)
    _, err = launcher.communicate(timeout=20)
    assert launcher.returncode == status
    assert said in err
    assert len(err.splitlines()) == bool(said)
    assert time.monotonic() - begin < 10


def test_processes_do_not_outlive_their_launcher():
    launcher = start("wait")
    assert launcher.stdout is not None
    for _ in range(2):
        launcher.stdout.readline()
    launcher.kill()
    # End of file: both processes have closed their output, after saving.
    assert sorted(launcher.stdout.read().splitlines()) == ["saved 0 SIGTERM", "saved 1 SIGTERM"]


# ------------------------------------------------------------------ the plan


def test_published_port_unless_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken"):
            plan_from("2", {"PORT": str(port)})
        assert plan_from("1", {"PORT": str(port)}).master_port == port, "alone, nobody meets"
        monkeypatch.setattr(launch, "PUBLISHED_PORT", port)
        assert plan_from("2", {}).master_port != port
        with pytest.raises(UserError, match="taken"):
            plan_from("2", {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "a"})
    assert plan_from("2", {"PORT": str(port)}).master_port == port


@pytest.mark.skipif(sys.platform != "linux", reason="the names of sockets are Linux's")
def test_two_runs_that_start_at_once_meet_at_two_ports(monkeypatch):
    plans, claims = [], []
    monkeypatch.setattr(launch, "run", lambda plan, command: plans.append(plan) or 0)
    monkeypatch.setattr(launch, "_CLAIMS", claims)
    # A port of this test's own: the published one may be another run's at the moment.
    wanted = Plan(2, master_port=free_port())
    monkeypatch.setattr(launch, "plan_from", lambda _: wanted)
    monkeypatch.delenv("PORT", raising=False)
    try:
        assert [launch.main(["2", "train"]) for _ in range(3)] == [0, 0, 0]
        assert len({plan.master_port for plan in plans}) == 3
        monkeypatch.setenv("PORT", str(wanted.master_port))
        launch.main(["2", "train"])
        assert plans[0] == plans[3] == wanted, "what was asked for by name is not replaced"
    finally:
        for claim in claims:
            claim.close()


@pytest.mark.parametrize(
    ("num", "env", "named"),
    [
        ("0", {}, "number of GPUs"),
        ("two", {}, "number of GPUs"),
        ("-1", {}, "number of GPUs"),
        ("2", {"NNODES": "2"}, "MASTER_ADDR"),
        ("2", {"NNODES": "2", "NODE_RANK": "2"}, "NODE_RANK"),
        ("2", {"PORT": "70000"}, "PORT"),
        ("2", {"PORT": "http"}, "PORT"),
    ],
)
def test_nonsense_is_refused(num, env, named):
    with pytest.raises(UserError, match=named):
        plan_from(num, env)


# ------------------------------------------------------------------ dist_train.sh


@pytest.fixture
def script(tmp_path):
    """Run the script with a pretended Python that prints its arguments and its PYTHONPATH."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "path $PYTHONPATH"\nfor a in "$@"; do echo "<$a>"; done\n')
    python.chmod(0o755)

    def run(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(ROOT / "dist_train.sh"), *arguments],
            cwd=cwd,
            env=clean_env(PYTHON=str(python)) | env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def test_the_script_passes_everything_on(script):
    done = script("pyproject.toml", "2", "--data-path", "a folder", "--eval")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].removeprefix("path ").split(":")[0] == str(ROOT / "src")
    assert [line[1:-1] for line in lines[1:]] == [
        *("-m", "tcformer.runtime.launch", "2", "train"),
        *("--config", "pyproject.toml", "--data-path", "a folder", "--eval"),
    ]


def test_the_script_finds_configs_from_elsewhere(script, tmp_path):
    assert f"<{ROOT}/pyproject.toml>" in script("pyproject.toml", "1", cwd=tmp_path).stdout
    (tmp_path / "pyproject.toml").touch()
    assert "<pyproject.toml>" in script("pyproject.toml", "1", cwd=tmp_path).stdout


def test_wrong_use_of_the_script(script):
    for arguments in ((), ("configs/tcformer/tcformer.py",)):
        done = script(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: sh dist_train.sh CONFIG GPUS")
        assert len(done.stderr.splitlines()) == 1
    done = script("a.py", "1", PYTHON="/no/such/python")
    assert done.returncode == 2
    assert "/no/such/python" in done.stderr


def test_the_environment_in_use_comes_before_the_clone(script, tmp_path):
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text("#!/bin/sh\necho the active one\n")
    (venv / "python").chmod(0o755)
    done = script("a.py", "1", PYTHON="", VIRTUAL_ENV=str(venv.parent))
    assert done.stdout == "the active one\n"


def interrupted_at(folder: Path, module: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command into which Ctrl-C falls once, when it imports `module` for the first time."""
    (folder / f"{module}.py").write_text(
        f"import os, signal, sys, importlib\n"
        f"sys.path.remove({str(folder)!r})\n"
        f"if not os.path.exists({str(folder / 'done')!r}):\n"
        f"    open({str(folder / 'done')!r}, 'w').close()\n"
        f"    os.kill(os.getpid(), signal.SIGINT)\n"
        f"if {module!r} != 'sitecustomize':\n"
        f"    del sys.modules[{module!r}]\n"
        f"    sys.modules[{module!r}] = importlib.import_module({module!r})\n"
    )
    env = clean_env(PYTHONPATH=f"{folder}:{ROOT / 'src'}", PYTHON=sys.executable)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("difflib", "tcformer train"),
        ("secrets", "tcformer predict"),
        ("difflib", "tcformer.runtime.launch 2 train"),
        ("socket", "tcformer.runtime.launch 2 train"),
    ],
)
def test_ctrl_c_among_the_first_imports_is_one_line(tmp_path, module, call):
    done = interrupted_at(tmp_path, module, sys.executable, "-m", *call.split(), "nowhere.py")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(("num", "said", "status"), [(2, "interrupted", 130), (1, "stopping", 2)])
def test_ctrl_c_while_the_scripts_python_starts_is_one_line(tmp_path, num, said, status):
    """Before Python can have a handler the script holds the signal back."""
    if subprocess.run(["env", "--block-signal=INT", "true"], capture_output=True).returncode:
        pytest.skip("this env cannot hold signals back")
    script = ("sh", str(ROOT / "dist_train.sh"), "nowhere.py", str(num))
    done = interrupted_at(tmp_path, "sitecustomize", *script)
    assert (done.returncode, done.stdout) == (status, "")
    lines = [line for line in done.stderr.splitlines() if line]
    assert said in lines[0]
    assert len(lines) == (1 if num == 2 else 2)  # the second says that there is no such file
    assert "Traceback" not in done.stderr

"""A running `tcformer serve` and a Chromium to look at it with."""

import os
import re
import shutil
import subprocess
import sys
import time
from importlib import util
from pathlib import Path

import pytest

FLAGS = [
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# In the server's process, every address that is not this machine's is written down and refused.
WATCH = """
import os, socket
allowed = ("127.", "::1", "localhost", "0.0.0.0")
def watched(real, pick):
    def call(*args, **kwargs):
        address = pick(args)
        if isinstance(address, (tuple, list)):
            address = address[0]
        if isinstance(address, bytes):
            address = address.decode()
        if isinstance(address, str) and address and not address.startswith((*allowed, "/")):
            with open(os.environ["TCFORMER_TEST_CALLS"], "a") as file:
                file.write(f"{address}\\n")
            raise OSError(f"the test allows no connection to {address}")
        return real(*args, **kwargs)
    return call
socket.socket.connect = watched(socket.socket.connect, lambda args: args[1])
socket.socket.connect_ex = watched(socket.socket.connect_ex, lambda args: args[1])
socket.getaddrinfo = watched(socket.getaddrinfo, lambda args: args[0])
"""


def require_gradio():
    if util.find_spec("gradio") is None:
        pytest.skip("Gradio is not installed (extra `serve`)")


def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if util.find_spec("playwright") is None or path is None:
        pytest.skip("needs playwright and a chromium on the path")
    return path


class Served:
    """A `tcformer serve` of its own process, with what it said and whom it called."""

    def __init__(self, folder: Path, *options: str):
        require_gradio()
        (folder / "sitecustomize.py").write_text(WATCH)
        self.calls, self.errors = folder / "calls", folder / "stderr"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]),
            "TCFORMER_TEST_CALLS": str(self.calls),
            "OMP_NUM_THREADS": "1",
        }
        for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
            environment.pop(name, None)  # the command switches them itself
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tcformer", "serve", "--port", "0", *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        line = self.process.stdout.readline()
        found = re.search(r"TCFormer is at (http://127\.0\.0\.1:\d+) ", line)
        assert found, line + self.errors.read_text()
        self.url = found.group(1)

    def stop(self, signal: int) -> tuple[int, str, float]:
        """Status, what was printed after the start, seconds it took."""
        start = time.monotonic()
        self.process.send_signal(signal)
        printed, _ = self.process.communicate(timeout=60)
        return self.process.returncode, printed, time.monotonic() - start

    def called(self) -> list[str]:
        """Addresses other than this machine's that the server asked for."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

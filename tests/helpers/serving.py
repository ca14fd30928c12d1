"""A running `tcformer serve` and a Chromium to look at it with."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import util
from pathlib import Path

import pytest

NASTY = ("<b>bold</b>", "a \"quoted\" & 'named' class", "x" * 200)
"""Names of classes that a page could take for its own."""

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
allowed = ("127.", "::1", "localhost", "0.0.0.0", "/")
def watched(name, place):
    real = getattr(socket.socket if place else socket, name)
    def call(*args, **kwargs):
        address = args[place]
        address = address[0] if isinstance(address, (tuple, list)) else address
        address = address.decode() if isinstance(address, bytes) else address
        if isinstance(address, str) and address and not address.startswith(allowed):
            with open(os.environ["TCFORMER_TEST_CALLS"], "a") as file:
                file.write(f"{address}\\n")
            raise OSError(f"the test allows no connection to {address}")
        return real(*args, **kwargs)
    setattr(socket.socket if place else socket, name, call)
watched("connect", 1), watched("connect_ex", 1), watched("getaddrinfo", 0)
"""


@contextmanager
def chromium(profile: Path):
    """The system's Chromium, as a context of Playwright's."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if util.find_spec("playwright") is None or path is None:
        pytest.skip("needs playwright and a chromium on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=path,
            headless=True,
            args=FLAGS,
            viewport={"width": 1360, "height": 950},
        )
        yield context
        context.close()


class Served:
    """A `tcformer serve` of its own process, with what it said and whom it called."""

    def __init__(self, folder: Path, *options: str):
        if util.find_spec("gradio") is None:
            pytest.skip("Gradio is not installed (extra `serve`)")
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

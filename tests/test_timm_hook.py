"""The models are in timm's registry whatever is imported first, and whoever asks where timm is."""

import subprocess
import sys

import pytest

OTHERS = ("transformers", "timm", "segmentation_models_pytorch")


def run(code, *words):
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CHECK = """
import timm
assert timm.is_model("tcformer_nano") and timm.is_model("tcformerv2_large")
assert type(timm.__spec__.loader).__name__ == "SourceFileLoader", timm.__spec__
"""

ASKED = """
import importlib.util, sys, tcformer
for _ in range(3):
    spec = importlib.util.find_spec("timm")
assert spec.loader.is_package("timm") and spec.loader.get_source("timm")
assert "torch" not in sys.modules and "timm" not in sys.modules
"""

RELOADED = """
import importlib, sys, tcformer
import timm
for module in (tcformer, tcformer._timm_hook, timm, timm.models, tcformer, tcformer.models):
    importlib.reload(module)
assert timm.is_model("tcformer_nano")
for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
    del sys.modules[name]
"""

FAILED_FIRST = """
import sys, tcformer, importlib.util
class Refuse:
    def find_spec(self, name, path, target=None):
        if name == REFUSED:
            raise ImportError(name)
sys.modules["timm"] = None
importlib.reload(tcformer)
del sys.modules["timm"]
for REFUSED in ("timm", "timm.layers", "timm.models._registry", "tcformer.weights.released"):
    sys.meta_path.insert(0, Refuse())
    try:
        import timm
        assert False, REFUSED
    except ImportError:
        del sys.meta_path[0]
    assert importlib.util.find_spec("timm")
    importlib.reload(tcformer)
"""

# Each in a fork of a process that holds torch, which takes longest to import.
FORKS = """
import os, sys
import torch, torchvision
for code in sys.argv[1:]:
    if os.fork() == 0:
        try:
            exec(code, {"__name__": "__main__"})
            os._exit(0)
        except BaseException as error:
            print(code, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    if os.wait()[1]:
        sys.exit(1)
"""


def test_registered_whatever_happened_before():
    run(ASKED + CHECK)
    orders = ("import timm, tcformer", "import tcformer, timm")
    run(FORKS, *(before + CHECK for before in (RELOADED, FAILED_FIRST, *orders)))


THREADS = """
import importlib, importlib.util, sys, threading
sys.setswitchinterval(1e-5)
start, problems = threading.Barrier(6), []
def work(name):
    start.wait()
    try:
        if name == "ask":
            importlib.util.find_spec("timm")
        else:
            importlib.import_module(name)
    except BaseException as problem:
        problems.append((name, problem))
names = ["timm", "tcformer", "timm", "ask", "tcformer.models", "tcformer"]
threads = [threading.Thread(target=work, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(300)
assert not problems, problems
"""


@pytest.mark.slow(seconds=20)
def test_threads_that_import_both_at_once():
    run(THREADS + CHECK)


# While this thread holds the lock of `tcformer`, another one takes that of a part and waits.
WAITING = """
import importlib.machinery, os, sys, threading, time, timm
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "tcformer":
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            spec.loader.create_module = lambda spec: other.start() or time.sleep(0.5)
            return spec
sys.meta_path.insert(0, Finder())
for part in ("tcformer.models", "tcformer.tokens", "tcformer.models.tcformer"):
    if os.fork() == 0:
        status = 1
        try:
            other = threading.Thread(target=__import__, args=(part,))
            import tcformer
            for thread in threading.enumerate():
                if thread is not threading.current_thread():
                    thread.join(60)
            assert part in sys.modules and timm.is_model("tcformer_nano"), part
            status = 0
        finally:
            os._exit(status)
    assert os.wait()[1] == 0
"""


def test_another_thread_waits_for_the_package():
    run(WAITING)


ORDERS = """
import importlib, itertools, os, sys
import torch, torchvision  # what all of them load, once
first, *others = sys.argv[1:]
# Of timm and smp the second finds timm imported, so one of them at a time tells all.
orders = [order for other in others for order in itertools.permutations(("tcformer", first, other))]
for order in orders:
    if os.fork() == 0:
        try:
            for name in order:
                module = importlib.import_module(name)
                if name == "transformers":
                    module.TimmWrapperConfig  # lazy until now
            import timm
            assert timm.is_model("tcformer_nano")
            sys.modules["transformers"].TimmWrapperConfig(architecture="tcformer_nano")
            os._exit(0)
        except BaseException as problem:
            print(order, repr(problem), file=sys.stderr, flush=True)
            os._exit(1)
    if os.wait()[1]:
        sys.exit(1)
print("all")
"""


@pytest.mark.slow(seconds=40)
@pytest.mark.timeout(900)  # seconds of work, which may take minutes on a busy machine
def test_every_order_of_the_libraries(tmp_path):
    for name in OTHERS:
        pytest.importorskip(name, reason=f"{name} is not installed")
    script = tmp_path / "orders.py"
    script.write_text(ORDERS)
    done = subprocess.run(
        [sys.executable, script, *OTHERS], capture_output=True, text=True, check=False
    )
    assert done.stdout == "all\n", done.stderr


@pytest.mark.slow(seconds=10)
def test_torch_may_come_later():
    run("import tcformer, torch, transformers" + CHECK)

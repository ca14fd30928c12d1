"""The paths for GPUs, with torch.cuda replaced by stand-ins: that they call what is there, rightly.

No GPU is needed, and nothing here says how fast one is.
"""

import contextlib
import inspect
import time
from types import SimpleNamespace

import pytest
import torch

from tcformer.bench import contenders, memory, models, phases, timing
from tcformer.bench.contenders import Setting, parse
from tcformer.runtime import provenance

GPU = SimpleNamespace(type="cuda")


class Event:
    """Takes the time of the host when it is recorded."""

    def __init__(self, enable_timing=False):
        assert enable_timing
        self.at = None

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


class Graph:
    replays = 0

    def replay(self):
        Graph.replays += 1


@pytest.fixture(autouse=True)
def _cuda(monkeypatch):
    """Stand-ins; each must exist in torch.cuda under this name."""

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

    stand_ins = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "synchronize": lambda device=None: None,
        "current_stream": lambda device=None: Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "graph": lambda graph: contextlib.nullcontext(),
        "reset_peak_memory_stats": lambda device=None: None,
        "memory_allocated": lambda device=None: 100,
        "memory_reserved": lambda device=None: 130,
        "max_memory_allocated": lambda device=None: 150,
        "mem_get_info": lambda device=None: (1000, 2000),
        "empty_cache": lambda: None,
        "get_device_properties": lambda device: SimpleNamespace(
            name="a card", major=9, minor=0, total_memory=2**37
        ),
    }
    for name, stand_in in stand_ins.items():
        assert hasattr(torch.cuda, name), name
        monkeypatch.setattr(torch.cuda, name, stand_in)


def test_events_take_the_time():
    seconds = timing.elapsed(lambda call: time.sleep(0.002), 0, 5, GPU)
    assert 0.01 <= seconds < 1


def test_many_calls_a_turn_unless_a_round_would_be_long():
    calls = []
    timing.interleaved({"a": calls.append}, device=GPU, rounds=1, warmup=0, turn=1e-9)
    assert len(calls) == timing.GPU_CALLS + 1  # one tells how many
    slow = []

    def wait(call):
        slow.append(call)
        time.sleep(0.01)

    timing.LONG_ROUND, before = 0.001, timing.LONG_ROUND
    try:
        timing.interleaved({"a": wait}, device=GPU, rounds=1, warmup=0, turn=1e-9)
    finally:
        timing.LONG_ROUND = before
    assert len(slow) == 2


def test_memory():
    assert memory.peak(GPU, lambda: None) == memory.Peak(50, 150)
    assert memory.free(GPU) == 1030  # what torch keeps for itself can be had as well


def test_phases_by_events():
    model = contenders.create(parse("tcformer_nano"), Setting(torch.device("cpu"), size=32))
    images = torch.randn(1, 3, 32, 32)
    found = phases.phase_times(model, lambda call: model(images), device=GPU, rounds=2)
    assert list(found) == list(phases.PHASES)
    assert all(seconds > 0 for seconds in found.values())


def test_the_machine():
    found = provenance.machine(GPU)
    assert found["gpu"] == "a card"
    assert found["gpu_memory_gib"] == 128
    assert found["gpu_capability"] == "9.0"


def test_a_graph_copies_its_input_and_replays():
    setting = Setting(torch.device("cpu"), size=32)
    inputs = [torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)]
    seen = []

    def network(images):
        seen.append(images)
        return images * 2

    step = contenders._graph(network, setting, inputs)
    assert len(seen) == 4  # three to warm up, one captured
    static = seen[-1]
    before = Graph.replays
    step(1)
    assert Graph.replays == before + 1
    assert torch.equal(static, inputs[1])
    assert torch.equal(inputs[0], torch.zeros(1, 3, 32, 32))


def test_a_graph_has_no_extra_memory_to_tell():
    row = models._row([0.1, 0.2], Setting(torch.device("cpu")), None, None)
    assert row["peak_extra_bytes"] is None


def test_cuda_graphs_are_allowed_on_cuda():
    contenders.check_possible(parse("tcformer+graph"), Setting(torch.device("cuda")))


def test_the_suite_of_a_gpu_asks_for_graphs():
    from tcformer.bench import suite_gpu

    suite = suite_gpu.Suite(torch.device("cuda"), suite_gpu.Scale())
    assert suite._possible(parse("tcformer+graph"))
    source = inspect.getsource(suite_gpu)
    assert source.count("+graph") >= 4

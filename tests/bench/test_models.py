"""Networks side by side: names, baselines, steps, rows, memory, phases; the GPU's paths as well."""

import contextlib
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tcformer.bench import models, tables
from tcformer.bench.models import Model, Setting, check_possible, groups, parse, prepare
from tcformer.errors import UserError
from tcformer.runtime import provenance, timing

CPU = torch.device("cpu")
SMALL = Setting(CPU, size=32, batch=2)
NANO, PVT = "tcformer_nano", "pvt_v2_b0"


def compare(*names, baseline=PVT, setting=SMALL, **options):
    chosen = [parse(name) for name in names]
    return models.compare(chosen, baseline, setting, rounds=3, warmup=1, turn=0.0, **options)


def test_traits():
    assert parse("tcformer+compile+compile") == Model("tcformer", ("compile",))
    assert parse(f"{NANO}+published+compile").label == f"{NANO}+published+compile"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tcformer_lihgt", "tcformer_light"),
        ("swin_tny_patch4_window7_224", "did you mean swin_tiny_patch4_window7_224"),
        ("tcformer+compiel", r"\+compile"),
        ("resnet50+published", "tcformer_light"),
        ("tcformerv2_base+published", "only"),
        ("xyzzy", "neither here nor in timm"),
    ],
)
def test_what_does_not_exist_is_a_sentence(text, says):
    with pytest.raises(UserError, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("names", "against", "expected", "base"),
    [
        (["tcformer_light"], None, ["tcformer_light", "pvt_v2_b1"], "pvt_v2_b1"),
        (["resnet50", "tcformer"], None, ["resnet50", "tcformer", "pvt_v2_b2"], "pvt_v2_b2"),
        (["tcformer", "pvt_v2_b2"], "tcformer", ["tcformer", "pvt_v2_b2"], "tcformer"),
        ([], "resnet50", ["tcformer", "resnet50"], "resnet50"),
        (["tcformer+compile", "tcformer"], None, ["tcformer+compile", "tcformer"], "tcformer"),
        (["tcformer+graph"], None, ["tcformer+graph", "pvt_v2_b2+graph"], "pvt_v2_b2+graph"),
        (["tcformer+published"], None, ["tcformer+published", "pvt_v2_b2"], "pvt_v2_b2"),
    ],
)
def test_the_baseline(names, against, expected, base):
    ((chosen, found),) = groups(names, against)
    assert ([model.label for model in chosen], found) == (expected, base)


def test_default_pairs_and_what_cannot_be_compared():
    pairs = groups([], None, ["compile"])
    assert [base for _, base in pairs] == ["pvt_v2_b2+compile", "pvt_v2_b1+compile"]
    assert [chosen[0].name for chosen, _ in pairs] == ["tcformer", "tcformer_light"]
    with pytest.raises(UserError, match="second model"):
        groups(["resnet50"], None)


def test_every_model_of_ours_has_a_pvt_of_its_widths_and_depths():
    import timm

    from tcformer.models.sizes import SIZES, WIDTHS

    assert set(models.BASELINES) == set(SIZES)
    for name in set(models.BASELINES.values()):
        with torch.device("meta"):
            pvt = timm.create_model(name)
        widths = [info["num_chs"] for info in pvt.feature_info]
        for ours in (ours for ours, theirs in models.BASELINES.items() if theirs == name):
            assert widths == list(SIZES[ours].get("embed_dims", WIDTHS))
            assert list(pvt.depths) == list(SIZES[ours]["depths"])


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        ("tcformer_nano+graph", Setting(CPU), "--device cuda"),
        ("tcformer_nano+graph", Setting(torch.device("cuda"), "training"), "inference"),
        ("tcformer_nano+tf32+graph", Setting(torch.device("cuda")), "its own precision"),
        ("tcformer_nano+cast", Setting(CPU), "inference in bf16 or fp16"),
    ],
)
def test_what_cannot_run_is_refused(name, setting, says):
    with pytest.raises(UserError, match=says):
        check_possible(parse(name), setting)
    check_possible(parse("tcformer+graph"), Setting(torch.device("cuda")))


def test_a_training_step_moves_the_weights():
    setting = Setting(CPU, "training", 2, 32, "bf16", channels_last=True)
    ready = prepare(parse("tcformer_nano"), setting, [torch.randn(2, 3, 32, 32)] * 2)
    before = [p.detach().clone() for p in ready.model.parameters()]
    ready.step(0)
    after = list(ready.model.parameters())
    moved = [not torch.equal(b, a) for b, a in zip(before, after, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


def test_an_inference_step_takes_its_inputs_in_turn_and_weights_may_be_cast_before():
    images = [torch.randn(1, 3, 64, 64) for _ in range(2)]
    setting = Setting(CPU, "inference", 1, 64, "bf16")
    # The seed is the same for all.
    plain, cast = (prepare(parse(n), setting, images) for n in (NANO, f"{NANO}+cast"))
    out = plain.step(0)
    assert out.dtype == next(cast.model.parameters()).dtype == torch.bfloat16
    assert not torch.equal(out, plain.step(1))
    assert torch.equal(out, cast.step(2))


def test_tf32_lasts_for_the_step_only():
    seen = []
    step = models._with_tf32(lambda call: seen.append(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    step(0)
    assert (seen, torch.get_float32_matmul_precision()) == (["high"], before)


def test_a_row():
    row = compare(NANO, PVT, with_phases=True)
    ours, theirs = row["models"][NANO], row["models"][PVT]
    assert theirs["ratio"] is None
    assert 0.5 * ours["seconds"]["min"] / theirs["seconds"]["high"] < ours["ratio"]["median"]
    assert models.ratio(row, NANO, PVT) == ours["ratio"]["median"]
    assert ours["images_per_second"] == pytest.approx(2 / ours["seconds"]["median"])
    assert (row["rounds"], row["skipped"]) == (3, {})
    assert list(ours["phases"]) == list(models.PHASES)


def test_what_does_not_fit_is_left_out_with_the_reason(monkeypatch):
    one = Setting(CPU, size=64, batch=1)
    need = models.expected_memory(parse(f"{NANO}+published"), one)
    monkeypatch.setattr(models, "free_memory", lambda device: int(1.2 * need))
    row = compare(f"{NANO}+published", PVT, setting=one)
    assert list(row["models"]) == [PVT]
    assert "would need about" in row["skipped"][f"{NANO}+published"]
    monkeypatch.setattr(models, "free_memory", lambda device: 1)
    row = compare(NANO, PVT, setting=one)
    assert set(row["skipped"]) == {NANO, PVT}
    assert len(tables.models(row)) == 3
    # Five matrices of 65,536 x 65,536 numbers.
    assert models.expected_memory(parse("tcformer+published"), Setting(CPU, size=1024)) > 80e9


@pytest.mark.parametrize(
    ("fails", "error"),
    [
        (NANO, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")),
        (PVT, torch.OutOfMemoryError("CUDA out of memory.")),
        (NANO, RuntimeError("a defect")),
    ],
)
def test_running_out_of_memory_is_no_end_and_a_defect_is(monkeypatch, error, fails):
    real = models.prepare

    def fail(model, setting, images):
        if model.name == fails:
            raise error
        return real(model, setting, images)

    monkeypatch.setattr(models, "prepare", fail)
    if "defect" in str(error):
        with pytest.raises(RuntimeError, match="a defect"):
            compare(NANO, PVT)
        row = compare(NANO, PVT, keep_going=True)
        assert row["skipped"] == {fails: "failed, RuntimeError: a defect"}
    else:
        row = compare(NANO, PVT)
        assert "ran out of memory" in row["skipped"][fails]
    assert all(one["ratio"] is None for one in row["models"].values())


def test_peak_memory_sees_what_is_allocated_and_freed():
    size = 64 * 2**20

    def step():
        torch.empty(size, dtype=torch.uint8).fill_(1)

    step()
    found = models.peak(CPU, step)
    if found is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert 0.8 * size < found.extra < 2 * size < 3 * found.total


@pytest.mark.parametrize(("name", "ctms"), [("swin_s3_tiny_224", 3), ("resnet18", 0)])
def test_phases_of_other_networks(name, ctms):
    network = models.create(parse(name), SMALL).eval()
    images = torch.randn(1, 3, 32, 32)
    found = models.phase_times(network, lambda _: network(images), device=CPU, rounds=1)
    named = ["stem", *(f"stage {n}" for n in range(1, 5)), *(f"CTM {n + 1}" for n in range(ctms))]
    assert set(found) == {*named, "head"}
    assert not any(module._forward_pre_hooks for module in network.modules())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert models.phase_times(flat, lambda _: None, device=CPU) == {}


# With torch.cuda replaced by stand-ins: that the paths for GPUs call what is there, rightly. No GPU
# is needed, and nothing here says how fast one is.

GPU = SimpleNamespace(type="cuda")


class Event:
    """Takes the time of the host when it is recorded."""

    def __init__(self, enable_timing=False):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        assert self.at

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


class Graph:
    replays = 0

    def replay(self):
        Graph.replays += 1


@pytest.fixture
def cuda(monkeypatch):
    """Stand-ins; each must exist in torch.cuda under this name."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    card = SimpleNamespace(name="a card", major=9, minor=0, total_memory=2**37)
    stand_ins = {
        "Event": Event,
        "Stream": lambda device=None: stream,
        "CUDAGraph": Graph,
        "synchronize": lambda device=None: None,
        "current_stream": lambda device=None: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "graph": lambda graph: contextlib.nullcontext(),
        "reset_peak_memory_stats": lambda device=None: None,
        "memory_allocated": lambda device=None: 100,
        "memory_reserved": lambda device=None: 130,
        "max_memory_allocated": lambda device=None: 150,
        "mem_get_info": lambda device=None: (1000, 2000),
        "get_device_properties": lambda device: card,
    }
    for name, stand_in in stand_ins.items():
        assert hasattr(torch.cuda, name), name
        monkeypatch.setattr(torch.cuda, name, stand_in)


@pytest.mark.usefixtures("cuda")
def test_events_take_the_time_of_many_calls_unless_a_round_would_be_long(monkeypatch):
    assert 0.01 <= timing.elapsed(lambda call: time.sleep(0.002), 0, 5, GPU) < 1
    calls = []
    timing.interleaved({"a": calls.append}, device=GPU, rounds=1, warmup=0, turn=1e-9)
    assert len(calls) == timing.GPU_CALLS + 1  # one tells how many
    calls.clear()
    monkeypatch.setattr(timing, "LONG_ROUND", 0.0)
    timing.interleaved({"a": calls.append}, device=GPU, rounds=1, warmup=0, turn=1e-9)
    assert len(calls) == 2


@pytest.mark.usefixtures("cuda")
def test_memory_machine_and_phases_of_a_gpu():
    assert models.peak(GPU, lambda: None) == models.Peak(50, 150)
    assert models.free_memory(GPU) == 1030  # what torch keeps for itself can be had as well
    found = provenance.machine(GPU)
    assert [found[f"gpu{name}"] for name in ("", "_memory_gib", "_capability")] == [
        "a card", 128, "9.0",
    ]  # fmt: skip
    network, images = models.create(parse("tcformer_nano"), SMALL), torch.randn(1, 3, 32, 32)
    times = models.phase_times(network, lambda call: network(images), device=GPU, rounds=2)
    assert list(times) == list(models.PHASES)
    assert all(seconds > 0 for seconds in times.values())


@pytest.mark.usefixtures("cuda")
def test_a_graph_copies_its_input_and_replays():
    images = [torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)]
    seen = []
    step = models._graph(lambda image: seen.append(image) or image * 2, SMALL, images)
    assert len(seen) == 4  # three to warm up, one captured
    before = Graph.replays
    step(1)
    assert Graph.replays == before + 1
    assert torch.equal(seen[-1], images[1])
    assert torch.equal(images[0], torch.zeros(1, 3, 32, 32))

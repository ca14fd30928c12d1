"""Networks side by side: rows, ratios, memory, phases, and what is left out."""

import pytest
import torch
from torch import nn

from tcformer.bench import memory, models, phases, tables
from tcformer.bench.contenders import Contender, Setting, create, parse

CPU = torch.device("cpu")
SMALL = Setting(CPU, size=32, batch=2)


def compare(*names, baseline="pvt_v2_b0", setting=SMALL, **options):
    chosen = [parse(name) for name in names]
    return models.compare(chosen, baseline, setting, rounds=3, warmup=1, turn=0.0, **options)


def test_a_row():
    row = compare("tcformer_nano", "pvt_v2_b0", with_phases=True)
    ours, theirs = row["models"]["tcformer_nano"], row["models"]["pvt_v2_b0"]
    assert theirs["ratio"] is None
    expected = ours["seconds"]["min"] / theirs["seconds"]["high"]
    assert expected * 0.5 < ours["ratio"]["median"]
    assert ours["images_per_second"] == pytest.approx(2 / ours["seconds"]["median"])
    assert row["rounds"] == 3
    assert row["skipped"] == {}
    assert list(ours["phases"]) == list(phases.PHASES)


def test_what_does_not_fit_is_left_out_with_the_reason(monkeypatch):
    huge = Setting(CPU, size=64, batch=1)
    need = models.expected_memory(parse("tcformer_nano+published"), huge)
    assert need > models.expected_memory(parse("tcformer_nano"), huge)
    monkeypatch.setattr(memory, "free", lambda device: int(1.2 * need))
    row = compare("tcformer_nano+published", "pvt_v2_b0", setting=huge)
    assert list(row["models"]) == ["pvt_v2_b0"]
    assert "would need about" in row["skipped"]["tcformer_nano+published"]
    monkeypatch.setattr(memory, "free", lambda device: 1)
    row = compare("tcformer_nano", "pvt_v2_b0", setting=huge)
    assert set(row["skipped"]) == {"tcformer_nano", "pvt_v2_b0"}
    assert len(tables.models(row)) == 3


def test_the_published_style_needs_the_square_of_the_tokens():
    small, large = (
        models.expected_memory(parse("tcformer+published"), Setting(CPU, size=size))
        for size in (512, 1024)
    )
    assert large > 10 * small
    assert large > 80e9  # five matrices of 65,536 x 65,536 numbers


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_no_end(monkeypatch, error):
    def fail(contender, setting, pictures):
        if contender.name == "tcformer_nano":
            raise error
        return real(contender, setting, pictures)

    real = models.prepare
    monkeypatch.setattr(models, "prepare", fail)
    row = compare("tcformer_nano", "pvt_v2_b0")
    assert "ran out of memory" in row["skipped"]["tcformer_nano"]
    assert list(row["models"]) == ["pvt_v2_b0"]


def test_without_the_baseline_there_are_no_ratios(monkeypatch):
    def fail(contender, setting, pictures):
        if contender.name == "pvt_v2_b0":
            raise MemoryError
        return real(contender, setting, pictures)

    real = models.prepare
    monkeypatch.setattr(models, "prepare", fail)
    row = compare("tcformer_nano", "pvt_v2_b0")
    assert row["models"]["tcformer_nano"]["ratio"] is None


def test_any_other_error_is_an_error(monkeypatch):
    def fail(contender, setting, pictures):
        raise RuntimeError("a defect")

    monkeypatch.setattr(models, "prepare", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        compare("tcformer_nano", "pvt_v2_b0")


def test_peak_memory_sees_what_is_allocated_and_freed():
    size = 64 * 2**20

    def step():
        block = torch.empty(size, dtype=torch.uint8)
        block.fill_(1)

    step()
    found = memory.peak(CPU, step)
    if found is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert 0.8 * size < found.extra < 2 * size
    assert found.total > size


@pytest.mark.parametrize(
    "name", ["tcformer_nano", "pvt_v2_b0", "swin_tiny_patch4_window7_224", "resnet18"]
)
def test_phases_of_other_networks(name):
    with torch.device("meta"):
        found = phases.starts(create_on_meta(name))
    expected = {"stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"}
    if not name.startswith("resnet"):
        expected |= {"CTM 1", "CTM 2", "CTM 3"}
    assert set(found) == expected


def create_on_meta(name):
    import timm

    return timm.create_model(name)


def test_phases_add_up_and_leave_no_hook_behind():
    model = create(Contender("tcformer_nano"), SMALL)
    images = torch.randn(2, 3, 32, 32)
    times = phases.phase_times(model, lambda call: model(images), device=CPU, rounds=3)
    assert list(times) == list(phases.PHASES)
    assert all(seconds > 0 for seconds in times.values())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_network_without_phases_has_no_table():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert phases.phase_times(model, lambda call: None, device=CPU) == {}

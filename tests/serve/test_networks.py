"""Only what the command line names can be chosen, and little of it is in memory at a time."""

import pytest
import torch

from tcformer.errors import UserError
from tcformer.serve import networks
from tcformer.serve.networks import Networks, entries
from tcformer.weights.metadata import save_weights
from tcformer.zoo import create_model


@pytest.fixture
def counted(monkeypatch):
    """Loading is counted, not done."""
    loads = []
    monkeypatch.setattr(networks, "_load", lambda entry: loads.append(entry.label) or object())
    return loads


def test_labels_are_short_and_differ():
    labels = [
        e.label for e in entries(["tcformer"], ["a/runs/1/best.pth", "a/runs/2/best.pth", "x"])
    ]
    assert labels == ["1/best.pth", "2/best.pth", "x", "tcformer (random)"]


def test_given_twice():
    with pytest.raises(UserError, match="tcformer is given twice: leave one out"):
        entries(["tcformer", "tcformer"], [])


def test_few_networks_stay_in_memory(counted):
    shelf = Networks(entries(["a", "b", "c"], []), most=2)
    first, second, third = shelf.labels
    for label in (first, second, first, third, first, second):
        shelf.get(label)
    assert counted == [first, second, third, second]
    assert len(shelf) == 2


@pytest.mark.parametrize("choice", ["/etc/passwd", "a", None, 3, ["a"], ""])
def test_nothing_else_can_be_chosen(counted, choice):
    with pytest.raises(UserError, match="not among those that can be chosen"):
        Networks(entries(["a"], [])).get(choice)
    assert counted == []


def test_a_checkpoint_is_checked_at_the_start(tmp_path):
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"bad\.pth"):
        Networks(entries([], [str(bad)])).check()


def test_a_checkpoint_is_loaded_and_one_that_went_away_is_named_by_its_label(tmp_path):
    model = create_model("tcformerv2_nano", num_classes=3)
    file = tmp_path / "own.safetensors"
    save_weights(model.state_dict(), file, {"model": "tcformerv2_nano", "classes": "a\nb\nc"})
    shelf = Networks(entries([], [str(file)]), most=1)
    shelf.check()
    loaded = shelf.get("own.safetensors")
    assert loaded.source is not None
    assert torch.equal(loaded.backbone.head.weight, model.head.weight)
    shelf = Networks(entries([], [str(file)]))
    file.unlink()
    with pytest.raises(UserError, match=r"own\.safetensors") as refusal:
        shelf.get("own.safetensors")
    assert str(tmp_path) not in str(refusal.value)

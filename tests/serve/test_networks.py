"""Only what the command line names can be chosen, and little of it is in memory at a time."""

import pytest
import torch

from tcformer.errors import UserError
from tcformer.serve import networks
from tcformer.serve.networks import Networks, entries
from tcformer.weights.metadata import save_weights
from tcformer.zoo import create_model


def test_labels_are_short_and_differ():
    checkpoints = ["a/runs/1/best.pth", "a/runs/2/best.pth", "x"]
    labels = [entry.label for entry in entries(["tcformer"], checkpoints)]
    assert labels == ["1/best.pth", "2/best.pth", "x", "tcformer (random)"]
    with pytest.raises(UserError, match="tcformer is given twice: leave one out"):
        entries(["tcformer", "tcformer"], [])


def test_few_networks_stay_in_memory_and_nothing_else_can_be_chosen(monkeypatch):
    loads = []
    monkeypatch.setattr(networks, "_load", lambda entry: loads.append(entry.label) or object())
    shelf = Networks(entries(["a", "b", "c"], []), most=2)
    first, second, third = shelf.labels
    for label in (first, second, first, third, first, second):
        shelf.get(label)
    assert loads == [first, second, third, second]
    for choice in ("/etc/passwd", "a", None, 3, ["a"], ""):
        with pytest.raises(UserError, match="not among those that can be chosen"):
            shelf.get(choice)
    assert len(loads) == 4


def test_a_checkpoint_is_checked_at_the_start_and_one_that_went_away_has_only_its_label(tmp_path):
    model = create_model("tcformerv2_nano", num_classes=3)
    file = tmp_path / "own.safetensors"
    save_weights(model.state_dict(), file, {"model": "tcformerv2_nano", "classes": "a\nb\nc"})
    shelf = Networks(entries([], [str(file)]), most=1)
    shelf.check()
    assert torch.equal(shelf.get("own.safetensors").backbone.head.weight, model.head.weight)
    shelf = Networks(entries([], [str(file)]))
    file.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=str(file)):
        shelf.check()
    with pytest.raises(UserError, match=r"own\.safetensors") as refusal:
        shelf.get("own.safetensors")
    assert str(tmp_path) not in str(refusal.value)

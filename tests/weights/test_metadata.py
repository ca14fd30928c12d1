"""Options of the merges as people give them, and their note in a file of weights."""

import argparse
import json

import pytest
import timm
import torch
from safetensors import safe_open

import tcformer
from tcformer.errors import UserError
from tcformer.weights.metadata import merge_options, merging_of, recorded_merging, save_weights
from tcformer.weights.safe_torch import read_checkpoint

LOCAL = {"part_grids": [[4, 4], [2, 2], [1, 1]]}


def nano(name="tcformer_nano", **options):
    with torch.device("meta"):
        return tcformer.create_model(name, num_classes=2, **options)


def test_options_become_arguments_of_the_network():
    options = merge_options("tcformer", (0.5,), 7, None, ("4x4", "2x4", "1"))
    grids = [(4, 4), (2, 4), (1, 1)]
    assert options == {"k": 7, "keep_ratio": [0.5, 0.5, 0.5], "part_grids": grids}
    assert merge_options("resnet18") == {}
    assert nano(**merge_options("tcformer", num_clusters=(9, 4, 2))).ctm3.rule.num_clusters == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep_ratio": (0.5, 0.5)}, "--keep-ratio takes one value, or one for each"),
        ({"num_clusters": ()}, "--num-clusters takes one value"),
        ({"part_grids": ("4x4x4",)}, "--part-grids is given '4x4x4'"),
        ({"part_grids": ("four", "2", "1")}, "--part-grids is given 'four'"),
    ],
)
def test_what_cannot_be_read_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        merge_options("tcformer", **options)
    with pytest.raises(UserError, match="about the merging of tokens, and resnet18 merges none"):
        merge_options("resnet18", k=3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"part_grids": 1}, {}),
        ({"k": 3, "keep_ratio": 0.5}, {"k": 3, "keep_ratio": [0.5] * 3}),
        ({"num_clusters": 8}, {"num_clusters": [8] * 3}),
        ({"part_grids": (4, 2, 1)}, LOCAL),
    ],
)
def test_merging_makes_a_network_that_does_the_same(options, expected):
    assert merging_of(nano(**options)) == expected
    assert merging_of(nano(**expected)) == expected
    assert merging_of(timm.create_model("resnet10t")) == {}


@pytest.mark.parametrize(
    ("name", "options", "merging"),
    [
        ("tcformer_nano", {}, {}),
        ("tcformerv2_nano", {"k": 4}, {"k": 4, **LOCAL}),
        ("tcformer_nano", {"num_clusters": 7}, {"num_clusters": [7] * 3}),
    ],
)
def test_a_file_says_how_its_network_merges(tmp_path, name, options, merging):
    path = tmp_path / "w.safetensors"
    save_weights(tcformer.create_model(name, num_classes=2, **options), path)
    with safe_open(path, "pt") as file:
        assert file.metadata()["model"] == name
        assert ("merging" in file.metadata()) == bool(merging)
    assert recorded_merging(read_checkpoint(path)) == merging


def test_so_do_the_options_of_a_run(tmp_path):
    weights = {"head.weight": torch.zeros(1)}
    published = argparse.Namespace(model="tcformer_light", drop=0.1)
    for number, (args, merging) in enumerate(
        (
            ({"model": "tcformerv2_nano", "k": 6}, {"k": 6, **LOCAL}),
            ({"model": "tcformer", "keep_ratio": [0.5], "part_grids": None},
             {"keep_ratio": [0.5] * 3}),
            ({"model": "resnet18"}, {}),
            (published, {}),
            (None, {}),
        )
    ):  # fmt: skip
        path = tmp_path / f"{number}.pth"
        torch.save({"model": weights, "args": args}, path)
        assert recorded_merging(read_checkpoint(path)) == merging


@pytest.mark.parametrize(
    "note", ["no json", "3", '{"k": 0}', '{"part_grids": [3, 2, 1]}', '{"pretrained": true}']
)
def test_a_damaged_note_is_one_sentence(note, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights({"head.weight": torch.zeros(1)}, path, {"merging": note})
    with pytest.raises(UserError, match="is damaged: it records a way of merging"):
        recorded_merging(read_checkpoint(path))


def test_converting_keeps_the_note(tmp_path, capsys):
    from tcformer.cli import main

    source, target = tmp_path / "a.pth", tmp_path / "b.safetensors"
    state = tcformer.create_model("tcformerv2_nano", num_classes=2).state_dict()
    torch.save({"model": state, "args": {"model": "tcformerv2_nano"}}, source)
    assert main(["convert", str(source), str(target)]) == 0
    with safe_open(target, "pt") as file:
        assert json.loads(file.metadata()["merging"]) == LOCAL
        assert file.metadata()["model"] == "tcformerv2_nano"


def test_a_network_is_built_as_the_file_says(tmp_path):
    from tcformer.predict import load

    path = tmp_path / "w.safetensors"
    save_weights(tcformer.create_model("tcformerv2_nano", num_classes=2, k=4), path)
    assert merging_of(load(None, path).backbone) == {"k": 4, **LOCAL}
    assert merging_of(load("tcformer_nano", path).backbone) == {}
    assert merging_of(load("tcformerv2_nano").backbone) == LOCAL

"""One call loads a network with its preprocessing and its class names, whoever wrote the file."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tcformer import create_model
from tcformer.data import TransformSpec, eval_transform
from tcformer.errors import UserError
from tcformer.models import SemanticFPN
from tcformer.predict import Preprocessing, load
from tcformer.weights.metadata import save_weights

NAMES = ["blue", "green", "red"]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def scores(loaded):
    assert not loaded.network.training
    with torch.inference_mode():
        return loaded.network(loaded.preprocessing(PICTURE)[None])


def saved(network, path, **metadata):
    save_weights(network, path, metadata)
    return load(checkpoint=path)


def test_our_file_tells_everything(model, network):
    assert (model.name, model.task, model.classes) == (
        "tcformer_nano", "classification", ("blue", "lilac and grün", "red"),
    )  # fmt: skip
    assert model.preprocessing == Preprocessing(32, 3)
    assert model.notes == ()
    # The picture passes through the very transform of `tcformer evaluate`.
    images = eval_transform(TransformSpec(input_size=32))(PICTURE)[None]
    with torch.inference_mode():
        assert torch.equal(scores(model), network(images))


def test_a_training_checkpoint_tells_everything_and_gives_its_averages(network, tmp_path):
    averaged = {key: value + 1 for key, value in network.state_dict().items()}
    content = {
        "model": network.state_dict(),
        "model_ema": averaged,
        "about": {"classes": NAMES, "input_size": 32},
        "args": {"model": "tcformer_nano", "input_size": 32},
        "epoch": 4,
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    for ema, expected in ((None, averaged), (False, network.state_dict())):
        loaded = load(checkpoint=path, ema=ema)
        found = loaded.network.state_dict()
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert loaded.classes == tuple(NAMES)
    assert (loaded.preprocessing.input_size, loaded.epoch) == (32, 4)
    content["model_ema"] = None
    torch.save(content, path)
    with pytest.raises(UserError, match="no averaged"):
        load(checkpoint=path, ema=True)


def test_the_authors_files_have_imagenets_names(tmp_path):
    released = create_model("tcformer_nano").state_dict()
    args = argparse.Namespace(input_size=160, model="tcformer_light")
    torch.save({"model": released, "args": args}, tmp_path / "theirs.pth")
    loaded = load(checkpoint=tmp_path / "theirs.pth")
    assert (loaded.num_classes, loaded.classes[0]) == (1000, "tench, Tinca tinca")
    assert loaded.preprocessing.input_size == 160
    assert "taken for ImageNet's" in loaded.notes[0]


@pytest.mark.parametrize(
    ("classes", "names", "note"),
    [
        ("", ("class 0", "class 1", "class 2"), "by their numbers"),
        ("a\nb", ("a", "b", "class 2"), None),
        ("a\nb\nc\nd", ("class 0", "class 1", "class 2"), "4 class names are recorded for 3"),
    ],
)
def test_classes_without_names_go_by_number(network, tmp_path, classes, names, note):
    loaded = saved(network, tmp_path / "a.safetensors", classes=classes, input_size=32)
    assert loaded.classes == names
    assert bool(loaded.notes) == bool(note)
    assert note is None or note in loaded.notes[0]


def test_without_weights_the_network_is_random_the_same_each_time_and_says_so():
    state = torch.get_rng_state()
    one, two = load("tcformer_nano"), load("tcformer_nano")
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(scores(one), scores(two))
    assert "random" in one.notes[0]
    assert one.source is None


def test_a_file_for_gray_pictures(tmp_path):
    """`weights/test_metadata.py` has other ways of merging."""
    network = create_model("tcformer_nano", num_classes=2, in_chans=1)
    loaded = saved(network, tmp_path / "a.safetensors", input_size=32)
    assert loaded.preprocessing.in_chans == 1
    assert scores(loaded).shape == (1, 2)
    # A map of tokens takes the whole picture as it is.
    assert loaded.tokens(np.asarray(PICTURE))[0].layout.grid_size == (13, 18)


def test_of_a_segmentation_model_the_backbone_is_loaded_and_names_no_classes(tmp_path):
    model = SemanticFPN(create_model("tcformer_nano", num_classes=0), 5, neck_channels=32)
    loaded = saved(model, tmp_path / "a.safetensors", task="segmentation")
    assert (loaded.task, loaded.num_classes, loaded.classes) == ("segmentation", 0, ())
    ours, theirs = loaded.backbone.state_dict(), model.backbone.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    alone = saved(model.backbone, tmp_path / "b.safetensors")
    for which, words in ((loaded, "segmentation model"), (alone, "without a classifier")):
        with pytest.raises(UserError, match=words):
            which.predict(PICTURE)
    with pytest.raises(UserError, match="segmentation model"):
        loaded.save_pretrained(tmp_path / "m")


def test_another_network_of_timms_classifies_but_has_no_tokens(tmp_path):
    model = timm.create_model("pvt_v2_b0", num_classes=4)
    about = {"model": "pvt_v2_b0", "input_size": 32, "classes": "a\nb\nc\nd"}
    loaded = saved(model, tmp_path / "a.safetensors", **about)
    assert (loaded.name, loaded.classes) == ("pvt_v2_b0", ("a", "b", "c", "d"))
    assert scores(loaded).shape == (1, 4)
    with pytest.raises(UserError, match="merges no tokens"):
        _ = loaded.backbone


def test_a_hub_folder_is_read_with_its_preprocessing(tmp_path, network):
    save_weights(network, tmp_path / "model.safetensors")
    config = {
        "architecture": "tcformer_nano",
        "label_names": NAMES,
        "pretrained_cfg": {
            "input_size": [3, 48, 48], "crop_pct": 1.0, "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(checkpoint=tmp_path)
    assert loaded.classes == tuple(NAMES)
    assert loaded.preprocessing == Preprocessing(48, 3, (0.5,) * 3, (0.25,) * 3, 1.0, "bilinear")
    resized = PICTURE.resize((67, 48), Image.Resampling.BILINEAR).crop((10, 0, 58, 48))
    expected = (torch.tensor(np.array(resized)).permute(2, 0, 1) / 255 - 0.5) / 0.25
    assert torch.allclose(loaded.preprocessing(PICTURE), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (None, "not a configuration"),
        (3, "not a configuration"),
        ({"k": "many"}, "cannot be built|k"),
        ({"checkpoint_path": "/etc/passwd"}, "'checkpoint_path' is not an argument"),
        ({"depths": [9, 9, 9, 9]}, "'depths'"),
    ],
)
def test_a_folders_configuration_can_build_nothing_else(network, tmp_path, arguments, words):
    save_weights(network, tmp_path / "model.safetensors")
    config = {"architecture": "tcformer_nano", "model_args": arguments}
    content = "[" * 100_000 if arguments is None else json.dumps(config)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=words):
        load(checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "tcformer_nanno"}, "did you mean tcformer_nano"),
        ({"model": "tcformer_light", "checkpoint": "FILE"}, "create tcformer_nano instead"),
        ({"checkpoint": "nowhere.pth"}, "no such file"),
        ({"checkpoint": "EMPTY"}, "folder without config.json"),
        ({"checkpoint": "FILE", "ema": True}, "no EMA"),
        ({"checkpoint": "FILE", "pretrained": True}, "choose one"),
        ({"checkpoint": "FILE", "input_size": 5}, "16 to 4096"),
        ({"device": "abacus"}, "--device"),
        ({"threads": 100000}, "cores"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(given, words, weights, tmp_path):
    places = {"FILE": weights, "EMPTY": tmp_path}
    with pytest.raises(UserError, match=words) as refusal:
        load(**{key: places.get(value, value) for key, value in given.items()})
    assert "\n" not in str(refusal.value)

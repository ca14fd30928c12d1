"""timm's hub format: written, read back by others, pushed to a hub that is not there."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import tcformer
from tcformer import cli
from tcformer.errors import UserError
from tcformer.predict import load
from tcformer.runtime.distributed import World
from tcformer.training.config import TrainConfig
from tcformer.training.record import RunRecord
from tcformer.weights.metadata import merging_of, save_weights

PIXELS = np.random.default_rng(1).integers(0, 256, (60, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tcformer_nano", {"num_classes": 3, "in_chans": 1, "keep_ratio": 0.5, "k": 3}),
        ("tcformer_nano", {"num_classes": 0, "part_grids": (2, 1, 1)}),
        ("tcformerv2_nano", {"num_classes": 3}),
    ],
)
def test_timm_and_we_read_back_what_was_saved(tmp_path, name, options):
    network = tcformer.create_model(name, **options).eval()
    names = ["a", "b", "c"] if options["num_classes"] else None
    folder = tcformer.save_pretrained(network, tmp_path / "m", classes=names, input_size=48)
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours = load(checkpoint=folder)
    images = torch.randn(2, network.in_chans, 32, 32)
    with torch.inference_mode():
        expected = network(images)
        assert torch.equal(theirs(images), expected)
        assert torch.equal(ours.network(images), expected)
    assert merging_of(theirs) == merging_of(ours.network) == merging_of(network)
    assert list(theirs.pretrained_cfg["input_size"]) == [network.in_chans, 48, 48]
    assert list(theirs.pretrained_cfg.get("label_names") or []) == (names or [])
    assert ours.classes == tuple(names or ())
    # timm's own preprocessing for this model is ours.
    if network.in_chans == 3:
        resolved = timm.data.resolve_model_data_config(theirs)
        transform = timm.data.create_transform(**resolved, is_training=False)
        picture = Image.fromarray(PIXELS)
        assert torch.allclose(transform(picture), ours.preprocessing(picture), atol=1e-6)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A folder of the small classifier, without a record."""
    return model.save_pretrained(tmp_path_factory.mktemp("hub") / "m")


def test_what_was_loaded_keeps_its_names_and_size(model, saved):
    again = load(checkpoint=saved)
    assert again.preprocessing.input_size == 32
    assert again.predict(PIXELS) == model.predict(PIXELS)
    # The weights alone tell the same.
    for place in (saved, saved / "model.safetensors", f"local-dir:{saved}"):
        assert load(place).classes == model.classes


def test_names_that_were_assumed_are_not_passed_on(network, tmp_path):
    save_weights(network, tmp_path / "a.safetensors")
    folder = load(checkpoint=tmp_path / "a.safetensors").save_pretrained(tmp_path / "m")
    assert "label_names" not in json.loads((folder / "config.json").read_text())


@pytest.fixture
def record(tmp_path):
    """The record of a run of two epochs."""
    place = tmp_path / "run" / "record.json"
    cfg = TrainConfig().replace(record=str(place), lr=0.25, finetune="/at/our/place/x.pth")
    kept = RunRecord(cfg.run, World(), ["train", "/at/our/place/config.py"], config=cfg.to_json())
    data = {"name": "IMNET", "train": {"images": 70, "classes": 3, "sha256": "0" * 16}}
    kept.begin({"task": "classification", "metric": "acc1", "data": data})
    kept.epoch({"epoch": 0, "test_acc1": 61.5})
    kept.epoch({"epoch": 1, "test_acc1": 50.25})
    kept.close("finished")
    return place


def test_the_card_is_written_from_the_record(model, record, tmp_path):
    folder = model.save_pretrained(tmp_path / "m", record=record, license="mit")
    card = (folder / "README.md").read_text()
    assert "| top-1 accuracy | 61.500 % after epoch 0 (counted from 0) |" in card
    assert "| train | 70 images, 3 classes, fingerprint 0000000000000000 |" in card
    assert "| --lr | 0.25 |" in card
    assert "| command | tcformer train config.py |" in card
    assert "lilac and grün" in card
    assert "/at/our" not in card
    import yaml

    front = yaml.safe_load(card.split("---")[1])
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 61.5}]
    assert (front["library_name"], front["license"]) == ("timm", "mit")
    # Weights of another epoch have another figure, or none.
    late = replace(model, epoch=1).save_pretrained(tmp_path / "late", record=record)
    assert "50.250 % after epoch 1" in (late / "README.md").read_text()


def test_without_a_record_the_card_claims_nothing(saved):
    card = (saved / "README.md").read_text()
    assert "nothing is known here about how it was trained" in card
    assert "accuracy" not in card
    assert "license" not in card


def test_names_cannot_break_out_of_the_card(network, tmp_path, record):
    names = ["<script>|`x`", "a\nb---\nlicense: mit", "c"]
    folder = tcformer.save_pretrained(
        network, tmp_path / "m", classes=names, record=record, name='x"\ny: z'
    )
    card = (folder / "README.md").read_text()
    for part in ("<script>", "\nlicense", "\ny: z"):
        assert part not in card


def test_a_folder_that_holds_a_model_is_left_alone_unless_told(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"holds a README\.md already"):
        model.save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
    model.save_pretrained(tmp_path, overwrite=True)
    assert (tmp_path / "README.md").read_text() != "mine"


def test_what_timm_could_not_build_is_refused(network, tmp_path):
    other = tcformer.create_model("tcformer_nano", num_classes=2, depths=(1, 1, 1, 1))
    for model, options, words in (
        (other, {}, "not a tcformer_nano as timm builds it"),
        (nn.Linear(2, 2), {}, "Linear is not a model that timm builds"),
        (network, {"classes": "ab"}, "2 names for 3"),
    ):
        with pytest.raises(UserError, match=words):
            tcformer.save_pretrained(model, tmp_path / "m", **options)
        assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("card_is_there", [False, True])
def test_a_push_creates_the_repository_and_uploads_the_folder(
    model, record, monkeypatch, card_is_there
):
    import huggingface_hub

    told = {}

    class Api:
        def __init__(self, token=None, **_):
            told["token"] = token

        def create_repo(self, repo, private, exist_ok):
            told["repo"] = (repo, private, exist_ok)
            return SimpleNamespace(repo_id=f"somebody/{repo}")

        def file_exists(self, repo, name, revision):
            return card_is_there

        def upload_folder(self, repo_id, folder_path, revision, commit_message):
            told["files"] = sorted(os.listdir(folder_path))
            told["names"] = load(checkpoint=folder_path).classes
            told["to"] = (repo_id, revision, commit_message)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model.push_to_hub("blue", token="secret", private=True, revision="next", record=record)
    assert told["repo"] == ("blue", True, True)
    assert told["token"] == "secret"
    assert told["to"] == ("somebody/blue", "next", "Add model")
    assert told["names"] == model.classes
    card = [] if card_is_there else ["README.md"]
    assert told["files"] == [*card, "config.json", "model.safetensors"]


def test_a_hub_that_refuses_or_is_not_there_is_one_sentence(model, monkeypatch, tmp_path):
    status = [401]

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status[-1])
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        log_message = print

    def push(repo):
        with pytest.raises(UserError) as refusal:
            model.push_to_hub(repo, token="hf_wrong")
        assert "\n" not in str(refusal.value)
        assert "hf_wrong" not in str(refusal.value)
        return str(refusal.value)

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    for number, words in ((401, "no valid token"), (403, "may not"), (500, "500")):
        status.append(number)
        assert words in push("somebody/blue")
    assert "cannot name a repository" in push("a/b/c")
    server.shutdown()
    server.server_close()
    assert "cannot be reached" in push("somebody/blue")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="somebody/blue"):
        load("hf-hub:somebody/blue")


def test_the_command(weights, record, tmp_path, capsys, monkeypatch):
    beside = record.parent / "best.safetensors"
    beside.write_bytes(weights.read_bytes())
    out = tmp_path / "hub"
    assert cli.main(["hub", str(beside), str(out), "--name", "Colours"]) == 0
    said = capsys.readouterr().out
    assert f'timm.create_model("local-dir:{out}", pretrained=True)' in said
    card = (out / "README.md").read_text()
    assert "# Colours" in card
    assert "61.500" in card
    assert cli.main(["hub", str(weights), str(out), "--force"]) == 0
    assert "no record of the training" in capsys.readouterr().out
    pushed = []
    monkeypatch.setattr(
        "tcformer.predict.hub.push_to_hub", lambda *a, **k: pushed.append((a, k)) or "address"
    )
    assert cli.main(["hub", str(beside), "--push", "me/colours", "--private"]) == 0
    ((loaded, repo), options) = pushed[0]
    assert (loaded.num_classes, repo) == (3, "me/colours")
    assert options == {"private": True, "record": record}
    for args, words in (
        ([str(weights)], "either a FOLDER"),
        ([str(weights), "x", "--push", "a/b"], "either a FOLDER"),
        ([str(weights), str(out)], "already"),
        ([str(weights), "x", "--private"], "--private"),
        ([str(weights), "--push", "a/b", "--force"], "--force"),
        ([str(weights), "x", "--record", str(weights)], "not JSON"),
        (["gone.pth", "x"], "no such file"),
    ):
        capsys.readouterr()
        assert cli.main(["hub", *args]) == 2
        errors = capsys.readouterr().err
        assert words in errors
        assert errors.count("\n") == 1


@pytest.mark.slow
def test_transformers_reads_it_with_its_names(model, saved):
    transformers = pytest.importorskip("transformers", reason="it reads the folder here")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(saved).eval()
    # It maps the file, so the weights lie where the header ends, and MKL's product of a single row
    # has other last bits where that is no multiple of 16 bytes: docs/numerics.md, Determinism.
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.data = parameter.clone()
    batch = model.preprocessing(Image.fromarray(PIXELS))[None]
    with torch.inference_mode():
        assert torch.equal(theirs(pixel_values=batch).logits, model.network(batch))
    assert tuple(theirs.config.id2label.values()) == model.classes


def test_folder_names_and_words_both_survive(network, tmp_path):
    """The words of ImageNet's folders are for people; data is matched by the folders' names."""
    names = ["n02007558", "n01443537", "n00007846"]  # the last is none of the 1000
    save_weights(network, tmp_path / "a.safetensors", {"classes": "\n".join(names)})
    before = load(checkpoint=tmp_path / "a.safetensors", input_size=48)
    assert "no input size is recorded" in before.notes[0]
    assert before.classes[:2] == ("flamingo", "goldfish, Carassius auratus")
    assert before.classes[2].startswith("person")
    tcformer.save_pretrained(before, tmp_path / "m")
    for place in (tmp_path / "m", tmp_path / "m/model.safetensors"):
        after = load(checkpoint=place)
        assert (after.recorded, after.classes) == (tuple(names), before.classes)
        assert after.preprocessing.input_size == 48

"""What every task does with a file of weights: names of classes, averages, sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

import tcformer
from tcformer.data import builtin
from tcformer.errors import UserError
from tcformer.predict import examine, labeled_folder, load, match_classes
from tcformer.runtime.distributed import World
from tcformer.tasks.classification.task import ClassificationTask
from tcformer.tasks.runner import run
from tcformer.tasks.segmentation.task import SegmentationTask
from tcformer.training.options import build, parse
from tcformer.weights.metadata import save_weights
from tcformer.zoo import create_model

NATURAL = ["0", "2", "10"]  # timm's order; that of ImageFolder is 0, 10, 2
COLORS = {"0": (220, 30, 30), "2": (30, 220, 30), "10": (30, 30, 220)}
SMALL = {
    "model": "tcformer_nano", "input_size": 32, "batch_size": 2, "num_workers": 0, "epochs": 1,
    "warmup_epochs": 0, "device": "cpu", "save_every": 0, "mixup": 0.0, "cutmix": 0.0,
}  # fmt: skip


def folders(root, names=tuple(NATURAL), count=3):
    random = np.random.RandomState(0)
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = random.randint(-25, 25, (32, 32, 3))
                pixels = (np.array(COLORS.get(name, (9, 9, 9))) + noise).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folders(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("tcformer_nano", num_classes=3).eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "natural.safetensors"
    save_weights(network, path, {"classes": "\n".join(NATURAL), "input_size": 32})
    return path


def reordered(network, order):
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for key in ("head.weight", "head.bias"):
        state[key] = state[key][order]
    return state


def measured(data, source, **changes):
    cfg = build({**SMALL, "data_path": str(data), "eval": True, "resume": str(source), **changes})
    return run(cfg).eval_lines


def test_an_evaluation_matches_classes_by_name(data, network, file, tmp_path, capsys):
    # The same network with its scores in the order of ImageFolder.
    save_weights(reordered(network, [0, 2, 1]), tmp_path / "a.safetensors", {"classes": "0\n10\n2"})
    save_weights(reordered(network, [0, 2, 1]), tmp_path / "b.safetensors")
    expected = measured(data, tmp_path / "a.safetensors")
    assert "by their names" not in capsys.readouterr().out
    assert measured(data, file) == expected
    assert "by their names" in capsys.readouterr().out
    assert measured(data, tmp_path / "b.safetensors") == expected  # no names: by order
    assert measured(data, file, data_set="timm:folder") == expected
    loaded = load(checkpoint=file)
    tcformer.save_pretrained(loaded, tmp_path / "hub")
    assert measured(data, tmp_path / "hub", record=str(tmp_path / "r.json")) == expected
    source = labeled_folder(data)
    right = examine(loaded, source, match_classes(loaded, source.classes, "x")).confusion.right
    assert f"* Acc@1 {100 * right / 9:.3f}" in expected[0]


def test_a_part_of_the_classes_is_measured_over_all_scores(network, file, tmp_path, capsys):
    data = folders(tmp_path / "part", ["10", "0"])
    lines = measured(data, file)
    assert "1 of the 3 classes" in capsys.readouterr().out
    loaded = load(checkpoint=file)
    source = labeled_folder(data)
    counts = examine(loaded, source, match_classes(loaded, source.classes, "x")).confusion
    assert counts.counts.shape == (3, 3)
    assert f"* Acc@1 {100 * counts.right / 6:.3f}" in lines[0]


def test_a_class_that_the_file_does_not_know_is_named(network, file, tmp_path):
    data = folders(tmp_path / "other", ["0", "2", "zebra"])
    for source in (file, content_of(network, tmp_path / "run.pth")):
        with pytest.raises(UserError, match="'zebra'"):
            measured(data, source)
    resumed = {**SMALL, "resume": str(tmp_path / "run.pth")}
    with pytest.raises(UserError, match="'zebra'"):
        run(build({**resumed, "data_path": str(data)}))
    (data / "val/zebra").rename(data / "val/10")
    (data / "train/zebra").rename(data / "train/10")
    folders(tmp_path / "more", ["0", "2", "10", "zebra"])
    with pytest.raises(UserError, match=r"3 classes, but the data .* has 4.*'zebra'"):
        measured(tmp_path / "more", file)
    folders(tmp_path / "less", ["0", "2"])
    with pytest.raises(UserError, match=r"3 classes, but the data .* has 2.*'10'"):
        run(build({**resumed, "data_path": str(tmp_path / "less")}))


def content_of(network, path, **more):
    """As much of a training checkpoint as an evaluation needs."""
    about = {"task": "classification", "classes": NATURAL, "input_size": 32}
    torch.save({"model": network.state_dict(), "about": about, "args": {}, **more}, path)
    return path


def test_a_resumed_run_keeps_the_numbers_of_its_classes(data, tmp_path, capsys):
    common = {**SMALL, "data_path": str(data), "output_dir": str(tmp_path)}
    run(build({**common, "data_set": "timm:folder"}))
    again = build({**common, "resume": "auto", "epochs": 2})
    run(again)
    assert "by their names" in capsys.readouterr().out
    assert load(checkpoint=tmp_path / "checkpoint.pth").recorded == tuple(NATURAL)
    task = ClassificationTask(again, World())
    task.follow({"classes": NATURAL}, task.model.state_dict(), "x.pth")
    for batch in task.batches(0, 0):
        for index, target in zip(batch.indices, batch.targets, strict=True):
            file = task.describe(batch._replace(indices=index[None]))[0]
            assert file.split("/")[-2] == NATURAL[target]


def test_finetuning_keeps_a_classifier_of_the_same_names_alone(data, network, file, tmp_path):
    def started(folder, source=file):
        cfg = build({**SMALL, "data_path": str(folder), "finetune": str(source)})
        task = ClassificationTask(cfg, World())
        before = task.model.head.weight.detach().clone()
        return task.finetune(str(source)), before, task.model.head.weight.detach()

    said, _, head = started(data)
    assert torch.equal(head, network.head.weight[[0, 2, 1]])
    assert "order" in said
    other = folders(tmp_path / "other", ["0", "2", "zebra"])
    said, before, head = started(other)
    assert torch.equal(head, before)
    assert "'zebra'" in said
    assert "no classifier" not in said
    twice = {
        f"{name}.{k}": v for name in ("student", "teacher") for k, v in network.state_dict().items()
    }
    torch.save(twice, tmp_path / "twice.pth")
    with pytest.raises(UserError, match=r"twice\.pth.*student.*teacher"):
        started(data, tmp_path / "twice.pth")
    with pytest.raises(UserError, match=r"twice\.pth.*student.*teacher"):
        measured(data, tmp_path / "twice.pth")
    save_weights(network, tmp_path / "silent.safetensors")
    said, _, head = started(other, tmp_path / "silent.safetensors")
    assert torch.equal(head, network.head.weight)


def test_segments_are_matched_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(builtin, "VAL_SCENES", 4)
    common = {
        "task": "segmentation", "model": "tcformer_nano", "data_set": "digits", "input_size": 32,
        "batch_size": 4, "num_workers": 0, "device": "cpu", "neck_channels": 8, "neck_heads": 2,
        "head_channels": 8, "mixup": 0.0, "cutmix": 0.0, "aa": None, "color_jitter": 0.0,
    }  # fmt: skip
    task = SegmentationTask(build({**common, "eval": True}), World())
    names = list(task.classes)
    plain = tmp_path / "plain.safetensors"
    task.save_weights(task.model.state_dict(), plain)
    order = torch.arange(len(names)).flip(0)
    turned = {
        key: value[order] if key.startswith("decode_head.conv_seg.") else value
        for key, value in task.model.state_dict().items()
    }
    task.classes = names[::-1]
    task.save_weights(turned, tmp_path / "turned.safetensors")
    expected = run(build({**common, "eval": True, "resume": str(plain)}))
    found = run(build({**common, "eval": True, "resume": str(tmp_path / "turned.safetensors")}))
    assert found.eval_lines[:2] == expected.eval_lines[:2]
    assert "by their names" in capsys.readouterr().out
    with pytest.raises(UserError, match="--neck-heads 2"):
        run(build({**common, "eval": True, "resume": str(plain), "neck_heads": 4}))
    again = SegmentationTask(build({**common, "finetune": "x"}), World())
    assert "order" in again.finetune(str(tmp_path / "turned.safetensors"))
    ours = again.model.state_dict()["decode_head.conv_seg.weight"]
    assert torch.equal(ours, task.model.state_dict()["decode_head.conv_seg.weight"])


def test_the_average_is_taken_unless_it_is_refused(data, network, tmp_path, capsys):
    torch.manual_seed(1)
    average = create_model("tcformer_nano", num_classes=3)
    both = content_of(network, tmp_path / "both.pth", model_ema=average.state_dict())
    last = measured(data, content_of(network, tmp_path / "last.pth"))
    mean = measured(data, content_of(average, tmp_path / "mean.pth"))
    assert last != mean
    assert "EMA" not in capsys.readouterr().out
    assert measured(data, both) == mean
    assert "EMA" in capsys.readouterr().out
    assert measured(data, both, ema=True) == mean
    assert measured(data, both, ema=False) == last
    for typed, ema in (("", None), ("--ema", True), ("--no-ema", False)):
        assert parse(typed.split(), prog="x", description="x").optimization.ema is ema
    for ema, expected in ((None, average), (False, network)):
        cfg = build({**SMALL, "data_path": str(data), "finetune": str(both), "ema": ema})
        task = ClassificationTask(cfg, World())
        assert ("EMA" in task.finetune(str(both))) == (ema is None)
        assert torch.equal(task.model.norm4.weight, expected.norm4.weight)
        key = "block1.0.mlp.fc1.weight"
        assert torch.equal(task.model.state_dict()[key], expected.state_dict()[key])


def test_another_size_than_that_of_the_training_is_told(data, file, capsys):
    measured(data, file)
    assert "trained at" not in capsys.readouterr().out
    measured(data, file, input_size=64)
    assert "trained at 32 px, and now the input is 64 px" in capsys.readouterr().out
    assert "32 px" in load(checkpoint=file, input_size=48).notes[-1]
    assert tcformer.load(checkpoint=file, input_size=32).notes == ()

import pytest
import torch

from tcformer.data import (
    DataSpec,
    TransformSpec,
    build_dataset,
    eval_transform,
    require_same_classes,
)
from tcformer.errors import UserError


def test_a_file_that_went_away_counts_as_unreadable(folder):
    root = folder({"train": {"a": 1}})
    data = build_dataset(DataSpec(data_path=str(root)), "train")
    (root / "train" / "a" / "00.png").unlink()
    assert data[0].reason == "No such file or directory"


@pytest.mark.parametrize("decoder", ["pil", "torchvision"])
def test_items_are_normalized_tensors(folder, decoder):
    root = folder({"val": {"a": 1}}, size=(50, 60))
    spec = DataSpec(data_path=str(root), decoder=decoder)
    item = build_dataset(spec, "val", eval_transform(TransformSpec(input_size=40)))[0]
    assert item.image.shape == (3, 40, 40)
    assert item.image.dtype == torch.float32
    raw = build_dataset(spec, "val")[0].image
    assert isinstance(raw, torch.Tensor) == (decoder == "torchvision")


@pytest.mark.parametrize("decoder", ["pil", "torchvision"])
def test_images_that_live_in_memory_work_with_both_decoders(decoder):
    spec = DataSpec(data_set="fake", decoder=decoder)
    assert build_dataset(spec, "val", eval_transform(TransformSpec()))[0].image.shape[1] == 224


def test_splits_with_other_classes_are_refused(folder):
    root = folder({"train": {"a": 1, "b": 1}, "one": {}})
    train = build_dataset(DataSpec(data_path=str(root)), "train")
    fake = build_dataset(DataSpec(data_set="fake", fake_classes=1), "val")
    require_same_classes(train, train)
    with pytest.raises(UserError, match=r"\(2 and 1; 'a' is in train but not in val\)"):
        require_same_classes(train, fake)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="use train or val"):
        build_dataset(DataSpec(data_set="fake"), "test")

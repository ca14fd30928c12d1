import json

import pytest

from tcformer.data import DataSpec, build_dataset, require_same_classes
from tcformer.errors import UserError


@pytest.fixture
def sample(picture, encode):
    def make(number, label, kind="cls"):
        content = str(label) if kind == "cls" else json.dumps({"label": label})
        image = (f"s{number:03d}.jpg", encode(picture(number), "JPEG"))
        # Either order of the members occurs in the wild.
        members = [(f"s{number:03d}.{kind}", content.encode()), image]
        return members if number % 2 else members[::-1]

    return make


def build(root, split="train"):
    return build_dataset(DataSpec(data_path=str(root), data_set="timm:wds/set"), split)


def test_shards_are_read_by_position(tmp_path, sample, picture, encode, write_tar):
    write_tar(tmp_path / "set-train-000.tar", [*sample(0, 2), *sample(1, 0)])
    write_tar(tmp_path / "set-train-001.tar", sample(2, 1, "json"))
    write_tar(tmp_path / "set-validation-000.tar", [*sample(3, 1), ("README", b"hello")])
    train, val = build(tmp_path), build(tmp_path, "val")
    assert [train[i].target for i in (2, 0, 1)] == [1, 2, 0]
    for number in range(3):
        data, _ = train.source.read(number)
        assert data == encode(picture(number), "JPEG")
    assert train.describe(2) == f"{tmp_path / 'set-train-001.tar'}/s002.jpg"
    assert (train.classes, val.classes) == (["0", "1", "2"], ["0", "1"])
    require_same_classes(train, val)


def test_the_image_is_the_field_that_is_an_extension_and_nothing_else(
    tmp_path, picture, encode, write_tar
):
    image, mask = encode(picture(0), "JPEG"), encode(picture(1))
    fields = [("a.JPG", image), ("a.seg.png", mask), ("a.CLS", b"1"), ("b.seg.png", mask)]
    hidden = [("._a.jpg", b"x"), ("__MACOSX/._a.jpg", b"x"), ("./.DS_Store", b"")]
    write_tar(tmp_path / "train-0.tar", [*hidden, *fields])
    write_tar(tmp_path / "._train-0.tar", hidden)
    data = build(tmp_path)
    assert [data.source.read(i) for i in range(len(data))] == [(image, 1)]
    assert "3 hidden" in str(data.source.left_out)
    assert "1 samples without an image" in str(data.source.left_out)
    write_tar(tmp_path / "train-0.tar", [*fields, ("a.png", mask)])
    with pytest.raises(UserError, match=r"two images, a.JPG and a.png"):
        build(tmp_path)
    write_tar(tmp_path / "train-0.tar", [*fields, ("a.seg.png", mask)])
    with pytest.raises(UserError, match=r"holds a.seg.png twice"):
        build(tmp_path)


def test_listed_shards_and_named_classes(tmp_path, sample, write_tar):
    write_tar(tmp_path / "x.tar", sample(0, 1))
    write_tar(tmp_path / "train" / "y.tar", sample(1, 0))
    (tmp_path / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(UserError, match="'cat' twice"):
        build(tmp_path)
    (tmp_path / "classes.txt").write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert build(tmp_path).classes == ["cat", "dog"]
    info = {"splits": {"train": {"name": "train", "filenames": ["x.tar"]}}}
    (tmp_path / "_info.json").write_text("\ufeff" + json.dumps(info))
    assert build(tmp_path)[0].target == 1
    (tmp_path / "x.tar").unlink()
    with pytest.raises(UserError, match=r"x.tar, listed in _info.json, is missing"):
        build(tmp_path)
    (tmp_path / "_info.json").write_text("[]")
    with pytest.raises(UserError, match="does not list shards"):
        build(tmp_path)


def test_refusals(tmp_path, sample, write_tar):
    with pytest.raises(UserError, match=r"no .tar shards for train"):
        build(tmp_path)
    with pytest.raises(UserError, match="are remote"):
        build("https://example.org/shards")
    shard = tmp_path / "train-0.tar"
    write_tar(shard, [("a.txt", b"")])
    with pytest.raises(UserError, match="have no images"):
        build(tmp_path)
    write_tar(shard, [("0001.left.jpg", sample(0, 1)[0][1])])  # the field is left.jpg
    with pytest.raises(UserError, match=r"have no images .*'0001\.left\.jpg' has 'left\.jpg'"):
        build(tmp_path)
    write_tar(shard, [m for m in sample(0, 1) if m[0].endswith("jpg")])
    with pytest.raises(UserError, match=r"s000.jpg in .*train-0.tar has no label"):
        build(tmp_path)
    write_tar(shard, sample(0, "cat"))
    with pytest.raises(UserError, match=r"cannot be read: .*'cat'"):
        build(tmp_path)
    write_tar(shard, sample(0, 1))
    (tmp_path / "classes.txt").write_text("only one\n")
    with pytest.raises(UserError, match="names 1 classes"):
        build(tmp_path)


def test_a_truncated_shard_is_named(tmp_path, sample, write_tar):
    shard = tmp_path / "train-0.tar"
    write_tar(shard, [*sample(0, 1), *sample(1, 1)])
    whole = shard.read_bytes()
    assert len(build(tmp_path)) == 2
    end = len(whole.rstrip(b"\0"))
    for length in (0, 100, 600, 1536, 2000, end - 1, end, end - end % 512 + 512):
        shard.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"train-0.tar cannot be read"):
            build(tmp_path)


@pytest.mark.parametrize("label", ["-1", "9" * 30, "1e3", "", "1" * 5000, "\x00"])
def test_labels_that_are_no_positions_are_refused(tmp_path, sample, write_tar, label):
    write_tar(tmp_path / "train-0.tar", sample(0, label))
    with pytest.raises(UserError, match=r"cannot be read|have the labels"):
        build(tmp_path)


def test_odd_lists_of_shards_and_classes_are_refused(tmp_path, sample, write_tar):
    write_tar(tmp_path / "train-0.tar", sample(0, 0))
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"classes\.txt cannot be read"):
        build(tmp_path)
    for listed in (
        "[5]",
        '{"a": 1}',
        '"train-0.tar"',
        "[" * 100_000,
        '["' + "x" * 5000 + '"]',
    ):
        (tmp_path / "info.json").write_text(f'{{"splits": {{"train": {{"filenames": {listed}}}}}}}')
        with pytest.raises(UserError, match=r"does not list shards|is missing"):
            build(tmp_path)
    (tmp_path / "info.json").write_bytes(b"x" * 5000 + b"\xff")
    with pytest.raises(UserError, match="does not list shards") as refusal:
        build(tmp_path)
    assert len(str(refusal.value)) < 1000

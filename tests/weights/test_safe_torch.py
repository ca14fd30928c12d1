"""What torch's own reader leaves out: checksums, archives that grow, keys that never end."""

import io
import pickle
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from tcformer.errors import UserError
from tcformer.weights.safe_torch import safe_torch_load

CONTENT = {
    "model": OrderedDict((f"layer{i}.weight", torch.arange(12.0).view(3, 4) + i) for i in range(3)),
    "epoch": 3,
    "args": {"lr": 0.1, "name": "x"},
}


def saved(content=CONTENT, *, legacy=False):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def load(folder, data):
    (folder / "a.pth").write_bytes(data)
    return safe_torch_load(folder / "a.pth")


def same(one, other):
    return all(
        torch.equal(one["model"][key], value) and one["model"][key].dtype == value.dtype
        for key, value in other["model"].items()
    ) and (list(one), one["epoch"], one["args"]) == (list(other), other["epoch"], other["args"])


def test_a_flipped_bit_in_a_tensor_is_named(tmp_path):
    data = bytearray(saved())
    data[data.index(CONTENT["model"]["layer1.weight"].numpy().tobytes()) + 5] ^= 1
    assert not same(torch.load(io.BytesIO(data)), CONTENT)  # torch notices nothing
    with pytest.raises(UserError, match=r"its record 'archive/data/1' is damaged, the checksum"):
        load(tmp_path, bytes(data))


def test_every_byte_counts_or_changes_nothing(tmp_path):
    whole = saved()
    random = np.random.RandomState(0)
    refused = 0
    for position in random.permutation(len(whole))[:200]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << random.randint(8)
        try:
            assert same(load(tmp_path, bytes(damaged)), CONTENT), position
        except UserError:
            refused += 1
    assert refused > 75


def test_files_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        data = saved()
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load(tmp_path, data), CONTENT)


def rewritten(data, change):
    """The archive with its records changed, and right checksums again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for record in old.infolist():
            change(new, record.filename, old.read(record))
    return stream.getvalue()


def test_compressed_archives_are_refused(tmp_path):
    def squeeze(new, name, content):
        if "data/0" in name:
            content = bytes(30_000_000)
        new.writestr(name, content, compress_type=zipfile.ZIP_DEFLATED)

    bomb = rewritten(saved(), squeeze)
    assert len(bomb) < 300_000
    with pytest.raises(UserError, match="compressed"):
        load(tmp_path, bomb)


def test_records_that_overlap_are_refused(tmp_path):
    whole = saved({"model": {"w": torch.zeros(5000)}})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        record = archive.getinfo("archive/data/0")
    stream = io.BytesIO(whole)
    with zipfile.ZipFile(stream, "a") as archive:
        for number in range(3):  # more entries in the directory for the same bytes
            twin = zipfile.ZipInfo(f"archive/data/{number + 1}")
            twin.header_offset, twin.CRC = record.header_offset, record.CRC
            twin.file_size = twin.compress_size = record.file_size
            archive.filelist.append(twin)
        archive._didModify = True
    with pytest.raises(UserError, match="larger than the file"):
        load(tmp_path, stream.getvalue())


@pytest.mark.parametrize("legacy", [False, True])
def test_keys_that_never_end_are_refused(tmp_path, legacy):
    def bomb(levels):
        key = ()
        for _ in range(levels):
            key = (key, key)
        return key

    # A pickle writes each level once, and hashing the key takes 2 ** levels steps.
    data = pickle.dumps({"KEY": 1}, 2).replace(
        b"X\x03\x00\x00\x00KEY", pickle.dumps(bomb(60), 2)[2:-1]
    )
    began = time.monotonic()
    if legacy:
        head = saved({}, legacy=True)
        start = head.rindex(b"\x80\x02")
        file = head[:start][: head[:start].rindex(b"\x80\x02")] + data + pickle.dumps([], 2)
    else:
        file = rewritten(
            saved({}),
            lambda new, name, old: new.writestr(name, data if name.endswith("data.pkl") else old),
        )
    with pytest.raises(UserError, match="nested without end"):
        load(tmp_path, file)
    assert time.monotonic() - began < 5


def test_another_pickle_protocol_is_named(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pth", pickle_protocol=4)
    with pytest.raises(UserError, match="protocol"):
        safe_torch_load(tmp_path / "a.pth")


def test_ordinary_tuples_and_sizes_are_read(tmp_path):
    content = {"a": ((1, 2), (3, (4,))), "s": torch.Size([2, 3]), ("k", 1): [(1,)] * 1000}
    assert load(tmp_path, saved(content)) == content


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_that_claims_more_than_it_holds(tmp_path, legacy):
    content = {"model": {"w": torch.ones(1).expand(1 << 20, 1 << 20)}}
    with pytest.raises(UserError, match="claims more numbers than it holds"):
        load(tmp_path, saved(content, legacy=legacy))
    view = torch.arange(10.0)[2:5]
    assert torch.equal(load(tmp_path, saved({"v": view}, legacy=legacy))["v"], view)


def test_containers_of_themselves_are_read(tmp_path):
    content = {"model": {"w": torch.ones(1)}}
    content["self"] = content
    assert load(tmp_path, saved(content))["self"]["self"]["model"]["w"] == 1

"""Reading files of weights: damaged, hostile and foreign ones are refused in one sentence."""

import argparse
import io
import os
import pickle
import subprocess
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tcformer.errors import UserError
from tcformer.weights.metadata import save_weights
from tcformer.weights.safe_torch import CHECKSUM, checksum, read_checkpoint, safe_torch_load

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


class Evil:
    """Pickles to a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickles_do_nothing(tmp_path, legacy):
    trace, weights = tmp_path / "trace", {"w": torch.ones(2)}
    for evil in (
        Evil(os.system, f"touch {trace}"),
        Evil(eval, f"open({str(trace)!r}, 'w')"),
        Evil(subprocess.call, ["touch", str(trace)]),
        Evil(Path, str(trace)),
    ):
        for content in (
            evil,
            {"model": weights, "args": argparse.Namespace(x=evil)},
            {"model": weights, "epoch": evil},
            {"model": {"w": [evil, torch.ones(2)]}},
        ):
            with pytest.raises(UserError, match=r"a\.pth: it holds more than weights") as caught:
                load(tmp_path, saved(content, legacy=legacy))
            assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_namespace_is_the_one_class_that_is_read(tmp_path, legacy):
    content = {"model": {"w": torch.arange(3.0)}, "epoch": 7, "args": argparse.Namespace(lr=0.1)}
    read = load(tmp_path, saved(content, legacy=legacy))
    assert torch.equal(read["model"]["w"], torch.arange(3.0))
    assert read["args"] == argparse.Namespace(lr=0.1)
    assert read["epoch"] == 7


class Registered:
    """A class that some other library declared safe."""


def test_what_others_registered_is_refused_and_stays_registered(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # it cannot switch the safety off
    data = saved({"x": Registered()})
    with torch.serialization.safe_globals([Registered]):
        with pytest.raises(UserError, match="Registered"):
            load(tmp_path, data)
        allowed = torch.serialization.get_safe_globals()
        assert Registered in allowed
        assert argparse.Namespace not in allowed
    with pytest.raises(UserError, match="Registered"):
        load(tmp_path, data)


def test_whole_modules_and_programs_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load(tmp_path, saved(torch.nn.Linear(2, 2)))
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(UserError, match="TorchScript"):
        safe_torch_load(tmp_path / "script.pt")


@pytest.mark.parametrize("size", [100, 5_000, 50_000, 100_000])
def test_a_download_broken_off_early_is_called_incomplete(tmp_path, size):
    # In files of 4 to 66 kB torch's search for the archive's end fails with a bare EINVAL.
    with pytest.raises(UserError, match="damaged or incomplete"):
        load(tmp_path, saved({"w": torch.randn(100_000)})[:size])


# ---- our safetensors files: every flipped bit is a refusal or nothing -----

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(3.0),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor([1, 2]),
    "none": torch.zeros(0, 4),
    "flag": torch.tensor([True, False]),
}
META = {"model": "x", "num_classes": "7"}


def same_tensors(one, other):
    return one.keys() == other.keys() and all(
        one[key].dtype == value.dtype and torch.equal(one[key], value)
        for key, value in other.items()
    )


def test_written_verified_and_changed_by_everything_in_the_file(tmp_path):
    save_weights(STATE, tmp_path / "a.safetensors", META)
    read = read_checkpoint(tmp_path / "a.safetensors")
    assert same_tensors(read.state_dict, STATE)
    sums = {checksum(STATE, META)}
    sums.add(checksum(STATE, {**META, "num_classes": "8"}))
    sums.add(checksum(STATE, {**META, "more": ""}))
    for key in STATE:
        sums.add(checksum({name: t for name, t in STATE.items() if name != key}, META))
    sums.add(checksum({**STATE, "a.weight": STATE["a.weight"].view(3, 2)}, META))
    sums.add(checksum({**STATE, "b": torch.tensor(-3.0)}, META))
    sums.add(checksum({**STATE, "b": torch.tensor(3.0).view(torch.int32)}, META))
    assert len(sums) == 3 + len(STATE) + 3
    assert checksum(STATE, {**META, CHECKSUM: "anything"}) == checksum(STATE, META)
    assert checksum(dict(reversed(STATE.items())), META) == checksum(STATE, META)


def test_every_bit_counts_or_changes_nothing(tmp_path):
    file = tmp_path / "a.safetensors"
    save_weights(STATE, file, META)
    whole, meta = file.read_bytes(), read_checkpoint(file).meta
    del meta[CHECKSUM]
    refused = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        try:
            read = read_checkpoint(file)
        except UserError:
            refused += 1
        else:
            assert same_tensors(read.state_dict, STATE), position
            assert meta.items() <= read.meta.items()  # the name of the entry itself may be hit
    assert refused > len(whole) * 0.8


def test_a_flip_in_a_weight_is_told(tmp_path):
    file = tmp_path / "a.safetensors"
    save_weights(STATE, file)
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 16
    file.write_bytes(damaged)
    load_file(file)  # the library notices nothing
    with pytest.raises(UserError, match="differ from the checksum that was written with them"):
        read_checkpoint(file)


def test_files_of_others_need_no_checksum(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(STATE, file, {"format": "pt"})
    assert same_tensors(read_checkpoint(file).state_dict, STATE)
    save_file(STATE, file, {CHECKSUM: "what another program means by it"})
    with pytest.raises(UserError, match=f"drop the entry '{CHECKSUM}'"):
        read_checkpoint(file)


HEADERS = [
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"x": 5}}',
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}}',
    '{"a": {"dtype": "F32", "shape": [4611686018427387905], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
    ' "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    '{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    '{"a": ' + "[" * 5000,
    "{}",
    "{",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_hostile_headers_are_one_sentence(tmp_path, header):
    file = tmp_path / "a.safetensors"
    text = header.encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(UserError) as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(file))

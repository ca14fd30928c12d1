"""The checksum inside our safetensors files: every flipped bit is a refusal or nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tcformer
from tcformer.errors import UserError
from tcformer.weights.metadata import save_weights
from tcformer.weights.safe_torch import CHECKSUM, checksum, read_checkpoint

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(3.0),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor([1, 2]),
    "none": torch.zeros(0, 4),
    "flag": torch.tensor([True, False]),
}
META = {"model": "x", "num_classes": "7"}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[key].dtype == value.dtype and torch.equal(one[key], value)
        for key, value in other.items()
    )


def test_written_verified_and_changed_by_everything_in_the_file(tmp_path):
    save_weights(STATE, tmp_path / "a.safetensors", META)
    read = read_checkpoint(tmp_path / "a.safetensors")
    assert same(read.state_dict, STATE)
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
            assert same(read.state_dict, STATE), position
            assert meta.items() <= read.meta.items()  # the name of the entry itself may be hit
    assert refused > len(whole) * 0.8


def test_a_flip_in_a_weight_is_told(tmp_path):
    file = tmp_path / "a.safetensors"
    save_weights(tcformer.create_model("tcformer_nano", num_classes=7), file)
    damaged = bytearray(file.read_bytes())
    damaged[-1000] ^= 16
    file.write_bytes(damaged)
    load_file(file)  # the library notices nothing
    with pytest.raises(UserError, match="differ from the checksum that was written with them"):
        read_checkpoint(file)


def test_files_of_others_need_no_checksum(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(STATE, file, {"format": "pt"})
    assert same(read_checkpoint(file).state_dict, STATE)
    save_file(STATE, file, {CHECKSUM: "what another program means by it"})
    with pytest.raises(UserError, match=f"drop the entry '{CHECKSUM}'"):
        read_checkpoint(file)


HEADERS = [
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"x": 5}}',
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}}',
    '{"a": {"dtype": "F32", "shape": [4611686018427387905], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F32", "shape": [1e0], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
    ' "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    '{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    '{"a": ' + "[" * 5000,
    "{}",
    '{"__metadata__": {}}',
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


@pytest.mark.parametrize("length", [0, 7, 1 << 20, 1 << 39, (1 << 40) - 1, 1 << 63])
def test_lengths_of_headers_that_cannot_be(tmp_path, length):
    file = tmp_path / "a.safetensors"
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(length.to_bytes(8, "little") + text + np.float32(1).tobytes())
    with pytest.raises(UserError):
        read_checkpoint(file)

"""A checksum of weights in their own file: safetensors has none, and a flipped bit goes unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

ENTRY = "tensors_sha256"
"""The metadata entry of a safetensors file that holds the checksum."""


def checksum(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of everything a safetensors file says, in hexadecimal, however it is laid out.

    Covered are the metadata besides the entry itself, and each tensor's name, dtype, shape and
    bytes, in the order of the names.

    Args:
        state: dense tensors by key, on the CPU.
        metadata: the metadata of the header.
    """
    said = sorted((key, value) for key, value in metadata.items() if key != ENTRY)
    tensors = [(key, str(state[key].dtype), list(state[key].shape)) for key in sorted(state)]
    digest = hashlib.sha256(json.dumps([said, tensors]).encode())
    for key in sorted(state):
        # As bytes, which NumPy knows for every dtype; a scalar has no last dimension to view.
        digest.update(state[key].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

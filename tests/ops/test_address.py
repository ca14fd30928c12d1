"""No bit of a result tells at which address the operands lie: files may be mapped into memory."""

import pytest
import torch

from tcformer.ops import csrc, dpc_knn, linear, plan_token_map, regroup, token_conv
from tcformer.ops.linear import unsupported_reason as onednn_unsupported_reason
from tcformer.tokens import Layout

ADDRESSES = (4, 8, 16, 32)  # bytes past a multiple of 64, where PyTorch's own memory starts


def moved(tensor, address):
    """A copy that starts `address` bytes past a multiple of 64."""
    room = torch.empty(tensor.numel() + 32, dtype=tensor.dtype)
    start = (address - room.data_ptr()) % 64 // tensor.itemsize
    copy = room[start : start + tensor.numel()].view(tensor.shape).copy_(tensor)
    assert copy.data_ptr() % 64 == address
    return copy


def assert_no_address_shows(function, *operands):
    want = function(*operands)
    for address in ADDRESSES:
        for i, operand in enumerate(operands):
            found = function(*operands[:i], moved(operand, address), *operands[i + 1 :])
            assert torch.equal(found, want), f"operand {i} at {address}"


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[-1]))


@pytest.mark.skipif(csrc.library() is None, reason="no C++ kernels")
@pytest.mark.parametrize("channels", [3, 40, 64])
def test_of_the_kernels(channels):
    x = normal(2, 49, channels)
    g = torch.Generator().manual_seed(0)
    cells = torch.cat([torch.arange(49), torch.randint(49, (147,), generator=g)]).expand(2, -1)
    layout = Layout(cells, 49, (14, 14), (7, 7), torch.ones(2, 196))
    plan = plan_token_map(layout)
    operands = x, normal(channels, 1, 3, 3), normal(channels), normal(channels + 1)[1:]
    assert_no_address_shows(
        lambda x, w, b, s: token_conv(x, plan, w, b, s, gelu=True, impl="cpp"), *operands
    )
    assert_no_address_shows(lambda x: dpc_knn(x, 12, impl="cpp").assignment, x)
    src, share = torch.arange(49).expand(2, -1), torch.rand(2, 49, generator=g)
    assert_no_address_shows(
        lambda x, w: regroup(x, src, src // 5, 10, weight=w, impl="cpp"), x, share
    )


@pytest.mark.skipif(onednn_unsupported_reason() is not None, reason="no oneDNN")
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(2, 32, 64), (5, 64, 3), (49, 160, 320)])
def test_of_linear_layers(rows, inputs, outputs):
    operands = normal(2, rows, inputs), normal(outputs, inputs), normal(outputs)
    assert_no_address_shows(lambda x, w, b: linear(x, w, b, impl="onednn"), *operands)

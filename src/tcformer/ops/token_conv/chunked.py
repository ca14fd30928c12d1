"""Inference through a token MLP on the CPU, as many images at a time as stay in the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcformer.ops.dispatch import is_transformed, operator, stands
from tcformer.ops.linear import linear
from tcformer.ops.regroup.plan import plan_pair
from tcformer.ops.token_conv import cpp
from tcformer.ops.token_map import TokenMap

__all__ = ["suits_chunks", "token_mlp"]

CHUNK = 8 * 2**20
"""Bytes of hidden features that are held at a time (more with many threads).

They are the largest tensors of the model. In chunks they stay in the cache, and in memory that the
process has already: what is larger than 32 MiB glibc takes anew from the system at every call, and
touching it for the first time costs more than computing with it.
"""


def suits_chunks(x: Tensor, plan: TokenMap) -> bool:
    """Whether :func:`token_mlp` can take these tokens: without gradients, by the C++ kernels."""
    if plan.backend != "cpp" or torch.is_grad_enabled() or not stands("token_conv"):
        return False
    if torch.is_autocast_enabled("cpu"):
        traced, half = torch.compiler.is_compiling(), torch.get_autocast_dtype("cpu")
        if traced or half not in (torch.float32, torch.bfloat16):
            return False
    return x.dtype in (torch.float32, torch.bfloat16) and not is_transformed()


def token_mlp(
    x: Tensor,
    plan: TokenMap,
    fc1: tuple[Tensor, Tensor],
    conv: tuple[Tensor, Tensor, Tensor | None],
    fc2: tuple[Tensor, Tensor],
) -> Tensor:
    """``fc2(token_conv(fc1(x), gelu=True))``, chunk by chunk; one operator of a compiled graph.

    ``x`` (B, N, C) is float32 or bfloat16 on the CPU. The layers are their weights and biases, and
    the skip of the convolution.
    """
    if torch.compiler.is_compiling():
        lists = cpp.plan_tensors(plan)
        out: Tensor = torch.ops.tcformer.token_mlp(x, *fc1, *conv, *fc2, lists, *plan.map_size)
        return out
    image = x.shape[1] * fc1[0].shape[0] * x.element_size()
    size = max(max(CHUNK, torch.get_num_threads() * 2**20) // max(image, 1), 1)
    done = []
    for first in range(0, x.shape[0], size):
        hidden = linear(x[first : first + size], *fc1)
        mixed = cpp.token_conv(hidden, plan, *conv, True, first)
        done.append(linear(mixed, *fc2))
    return done[0] if len(done) == 1 else torch.cat(done)


@torch.no_grad()
def _token_mlp(x: Tensor, *arguments: Any) -> Tensor:
    weight1, bias1, weight, bias, skip, weight2, bias2, plan, height, width = arguments
    token_map = _token_map(plan, x.shape[1], (height, width))
    return token_mlp(x, token_map, (weight1, bias1), (weight, bias, skip), (weight2, bias2))


def _token_map(lists: list[Tensor], tokens: int, map_size: tuple[int, int]) -> TokenMap:
    """What :func:`~tcformer.ops.token_conv.cpp.plan_tensors` took apart."""
    if not lists:
        return TokenMap(map_size, None, None, "cpp")
    pixel_start, pixels, token_start, members, *weights = lists
    by_pixel = pixel_start, pixels, weights[0], weights[2]
    by_token = token_start, members, weights[3], weights[1]
    plans = plan_pair(tokens, map_size[0] * map_size[1], by_pixel, by_token, "cpp")
    return TokenMap(map_size, *plans, "cpp")


def _flop(x: Tensor, weight1: Tensor, *arguments: Any, **others: Any) -> int:
    """What torch's counter says of the three layers one after the other."""
    hidden, (weight2, *_, height, width) = weight1.shape[0], arguments[4:]
    products = x.shape[1] * (x.shape[2] + weight2.shape[0]) + 9 * height * width
    return 2 * x.shape[0] * hidden * int(products)


operator(
    "token_mlp(Tensor x, Tensor weight1, Tensor bias1, Tensor weight, Tensor bias, Tensor? skip,"
    " Tensor weight2, Tensor bias2, Tensor[] plan, SymInt height, SymInt width) -> Tensor",
    _token_mlp,
    lambda x, *others: torch.empty_like(x),
    key="CPU",
    flops=_flop,
)

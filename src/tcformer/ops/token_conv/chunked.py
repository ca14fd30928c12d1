"""Inference through a token MLP in pieces of the batch that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from tcformer.ops.linear import linear
from tcformer.ops.regroup import GatherSum, RegroupPlan
from tcformer.ops.token_conv import token_conv
from tcformer.ops.token_conv.cpp import plan_tensors
from tcformer.ops.token_map import TokenMap

__all__ = ["by_pieces", "token_mlp"]

PIECE = 8 * 2**20
"""Bytes of hidden features that are held at a time (more with many threads).

They are the largest tensors of the model. In pieces they stay in the cache, and in memory that the
process has already: what is larger than 32 MiB glibc takes anew from the system at every call, and
touching it for the first time costs more than computing with it.
"""


def by_pieces(x: Tensor, hidden: int, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Call ``run`` on as many images at a time as fit, and put the results together.

    Args:
        x: (B, N, C).
        hidden: features a token that ``run`` holds, in the dtype of x.
        run: takes a part of x and the number of its first image.
    """
    image = x.shape[1] * hidden * x.element_size()
    size = max(max(PIECE, torch.get_num_threads() * 2**20) // max(image, 1), 1)
    parts = [run(x[first : first + size], first) for first in range(0, x.shape[0], size)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def token_mlp(
    x: Tensor,
    plan: TokenMap,
    fc1: tuple[Tensor, Tensor],
    conv: tuple[Tensor, Tensor, Tensor | None],
    fc2: tuple[Tensor, Tensor],
) -> Tensor:
    """``fc2(token_conv(fc1(x), gelu=True))`` as one operator of a compiled graph, for inference.

    Args:
        x: (B, N, C) float32 on the CPU.
        plan: between the tokens and the map, with weights in float32.
        fc1: weight and bias of the first linear layer.
        conv: weight, bias and skip of the convolution; skip may be None.
        fc2: weight and bias of the second linear layer.
    """
    lists = plan_tensors(plan)
    out: Tensor = torch.ops.tcformer.token_mlp(x, *fc1, *conv, *fc2, lists, *plan.map_size)
    return out


_OPS = torch.library.Library("tcformer", "FRAGMENT")
_OPS.define(
    "token_mlp(Tensor x, Tensor weight1, Tensor bias1, Tensor weight, Tensor bias, Tensor? skip,"
    " Tensor weight2, Tensor bias2, Tensor[] plan, SymInt height, SymInt width) -> Tensor"
)


@torch.library.impl(_OPS, "token_mlp", "CPU")
@torch.no_grad()
def _token_mlp(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    weight2: Tensor,
    bias2: Tensor,
    plan: list[Tensor],
    height: int,
    width: int,
) -> Tensor:
    token_map = _token_map(plan, x.shape[1], (height, width))

    def run(part: Tensor, first: int) -> Tensor:
        hidden = linear(part, weight1, bias1)
        mixed = token_conv(hidden, token_map, weight, bias, skip, gelu=True, overwrite_from=first)
        return linear(mixed, weight2, bias2)

    return by_pieces(x, weight1.shape[0], run)


def _token_map(lists: list[Tensor], tokens: int, map_size: tuple[int, int]) -> TokenMap:
    """What :func:`~tcformer.ops.token_conv.cpp.plan_tensors` took apart."""
    if not lists:
        return TokenMap(map_size, None, None)
    by_pixel, by_token = (lists[0], lists[1]), (lists[2], lists[3])
    to_map, to_map_back, to_tokens_back, to_tokens = lists[4:]
    count = map_size[0] * map_size[1]
    return TokenMap(
        map_size,
        RegroupPlan(tokens, count, GatherSum(*by_pixel, to_map), GatherSum(*by_token, to_map_back)),
        RegroupPlan(
            count, tokens, GatherSum(*by_token, to_tokens), GatherSum(*by_pixel, to_tokens_back)
        ),
    )


def _shape(x: Tensor, *others: object) -> Tensor:
    return torch.empty_like(x)


torch.library.register_fake("tcformer::token_mlp", _shape, lib=_OPS)


@register_flop_formula(torch.ops.tcformer.token_mlp, get_raw=True)
def _flop(x: Tensor, weight1: Tensor, *arguments: Any, **others: Any) -> int:
    """What torch's counter says of the three layers one after the other."""
    hidden, (weight2, *_, height, width) = weight1.shape[0], arguments[4:]
    products = x.shape[1] * (x.shape[2] + weight2.shape[0]) + 9 * height * width
    return 2 * x.shape[0] * hidden * int(products)

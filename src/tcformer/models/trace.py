"""Look into a network while it runs: importance scores of the merges, attention of a token."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from tcformer.errors import UserError
from tcformer.models.sizes import NUM_STAGES
from tcformer.models.tcformer import Attention, KeySource, TCFormer
from tcformer.tokens import Layout, Tokens, pixel_of_cell

__all__ = ["Attended", "Trace", "trace"]


@dataclass(frozen=True)
class Attended:
    """What one attention was given, enough to say afterwards which key a token looked at.

    Attributes:
        layer: the attention layer.
        queries: (B, N, C), one for each token of the stage.
        keys: (B, K, C).
        bias: (B, K) importance that is added to the scores, or None.
        cell_to_key: (B, H0*W0) int64, the key that stands for each cell of the grid: a window of
            the stage's map, or a token where keys are not reduced; -1 for cells at the right and
            bottom rim that no window covers.
        over: what the keys are: "windows", "tokens" (of the stage itself), or "earlier tokens"
            (those before the merge, in the first block of a stage).
    """

    layer: Attention
    queries: Tensor
    keys: Tensor
    bias: Tensor | None
    cell_to_key: Tensor
    over: str

    def weights(self, token: int, *, head: int | None = None, image: int = 0) -> Tensor:
        """The attention of one token over the keys: (K,) float32, adding up to 1.

        Args:
            token: number of the token in its stage.
            head: which head, from 1; the mean of all heads when left out.
            image: which image of the batch.

        Raises:
            UserError: there is no such head.
        """
        heads = self.layer.num_heads
        if head is not None and not 1 <= head <= heads:
            raise UserError(f"there is no head {head}: this block has {heads}, counted from 1")
        with torch.inference_mode():
            width = self.queries.shape[2] // heads
            q = self.layer.q(self.queries[image : image + 1, token : token + 1])
            k = self.layer.kv(self.keys[image : image + 1])[..., : heads * width]
            q, k = (x.float().view(-1, heads, width).transpose(0, 1) for x in (q, k))
            score = (q @ k.transpose(1, 2)).squeeze(1) / width**0.5
            if self.bias is not None:
                score = score + self.bias[image].float()
            weight = score.softmax(dim=-1)
            return weight.mean(dim=0) if head is None else weight[head - 1]


@dataclass(frozen=True)
class Trace:
    """What `trace` saw.

    Attributes:
        stages: the tokens after each stage, as `forward_tokens` returns them.
        scores: for each merge the importance of the tokens before it, (B, N) float32: a token's
            share of the merged one is exp(score) over the sum of its cluster.
        attended: for each stage the attention of the chosen block.
        blocks: their numbers, from 1.
    """

    stages: list[Tokens]
    scores: list[Tensor]
    attended: list[Attended]
    blocks: tuple[int, ...]


def trace(model: TCFormer, images: Tensor, *, block: int | None = None) -> Trace:
    """Run the backbone and keep what pictures need.

    Hooks are set for this one call and listen to this thread alone, so a network that others use
    at the same time is safe.

    Args:
        model: a network in evaluation mode.
        images: (B, in_chans, H, W) float, normalized.
        block: whose attention to keep, from 1 in every stage (the last one of a stage that has
            fewer); the last of each stage when left out.

    Returns:
        Tokens, scores and attention; memory for one more copy of the chosen blocks' inputs.

    Raises:
        UserError: no stage has such a block.
    """
    stages = [s for s in range(1, NUM_STAGES + 1) if hasattr(model, f"norm{s}")]
    depths = [len(getattr(model, f"block{stage}")) for stage in stages]
    if block is not None and not 1 <= block <= max(depths):
        raise UserError(
            f"there is no block {block}: the stages of this model have "
            f"{', '.join(map(str, depths))} blocks, counted from 1"
        )
    blocks = tuple(depth if block is None else min(block, depth) for depth in depths)
    layers = [
        cast(Attention, getattr(model, f"block{stage}")[number - 1].attn)
        for stage, number in zip(stages, blocks, strict=True)
    ]
    inputs: dict[nn.Module, tuple[Any, ...]] = {}
    sources: list[KeySource] = []

    def keep_inputs(layer: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[layer] = args

    def keep_source(_ctm: nn.Module, _args: Any, output: tuple[Tokens, KeySource]) -> None:
        sources.append(output[1])

    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for layer in layers:
            handle = layer.register_forward_pre_hook(_here(keep_inputs))
            hooks.callback(handle.remove)
        for stage in stages[1:]:
            ctm: nn.Module = getattr(model, f"ctm{stage - 1}")
            hooks.callback(ctm.register_forward_hook(_here(keep_source)).remove)
        outputs = model.forward_tokens(images)
    attended = []
    for stage, layer, number in zip(stages, layers, blocks, strict=True):
        queries, keys, *rest = inputs[layer]
        first = stage > 1 and number == 1
        layout, over = _keyed_by(layer, outputs[stage - 1].layout, sources[stage - 2 :], first)
        attended.append(Attended(layer, queries, keys, rest[0] if rest else None, layout, over))
    return Trace(outputs, [source.score.float() for source in sources], attended, blocks)


def _here(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, deaf to other threads."""
    thread = threading.get_ident()

    def listen(*args: Any) -> None:
        if threading.get_ident() == thread:
            hook(*args)

    return listen


def _keyed_by(
    layer: Attention, layout: Layout, sources: Sequence[KeySource], first: bool
) -> tuple[Tensor, str]:
    """The key of each cell, and what keys are."""
    if layer.sr_ratio == 1:
        if first:
            return sources[0].tokens.layout.cell_to_token, "earlier tokens"
        return layout.cell_to_token, "tokens"
    (height, width), device = layout.map_size, layout.cell_to_token.device
    high, wide = layer.window((height, width))
    rows, columns = height // high, width // wide
    pixel = pixel_of_cell(layout.grid_size, (height, width), device)
    row, column = pixel // width // high, pixel % width // wide
    key = torch.where((row < rows) & (column < columns), row * columns + column, -1)
    return key.expand(layout.cell_to_token.shape[0], -1), "windows"

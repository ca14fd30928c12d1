"""TCFormer computed the way the published code computes it: what our ops are measured against.

The weights, modules and numbers are those of our model; what differs is how tokens are clustered
(a full matrix of distances, top-k on its rows, mask arithmetic over all of it) and regrouped (a
sparse matrix in coordinate form, built and coalesced anew for every conversion). Written for this
comparison from a description of that code; never part of a model that is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcformer.tokens import Layout, pixel_of_cell

EPS = 1e-6
NOISE = 1e-6
NEIGHBORS = 5


class _State(NamedTuple):
    """Tokens of one moment: features, the token of every cell, the sizes of grid and map."""

    x: Tensor  # (B, N, C)
    token: Tensor  # (B, n0) int64
    share: Tensor  # (B, n0, 1) weight of a cell in its token
    grid: tuple[int, int]
    size: tuple[int, int]


class PublishedStyle(nn.Module):
    """One of our models, run in the published way; shares its parameters.

    Args:
        model: any variant of this package that clusters globally with the default settings.
        noise: amplitude of the noise on densities, which the published code draws in evaluation
            as well; 0 to compare numbers.
    """

    def __init__(self, model: nn.Module, noise: float = NOISE):
        super().__init__()
        self.model: Any = model
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes)."""
        model = self.model
        x: Tensor
        x, grid = model.patch_embed1(images)
        batch, cells, _ = x.shape
        token = torch.arange(cells, device=x.device).repeat(batch, 1)
        state = _State(x, token, x.new_ones(batch, cells, 1), grid, grid)
        for block in model.block1:
            state = state._replace(x=_grid_block(block, state))
        state = state._replace(x=model.norm1(state.x))
        for stage in (2, 3, 4):
            ctm = getattr(model, f"ctm{stage - 1}")
            state, before, score = self._merge_stage(ctm, state)
            for number, block in enumerate(getattr(model, f"block{stage}")):
                keys, bias = (before, score) if number == 0 else (state, None)
                state = state._replace(x=_token_block(block, state, keys, bias))
            state = state._replace(x=getattr(model, f"norm{stage}")(state.x))
        logits: Tensor = _linear(model.head, state.x.mean(dim=1))
        return logits

    def _merge_stage(self, ctm: Any, state: _State) -> tuple[_State, _State, Tensor]:
        size = ((state.size[0] + 1) // 2, (state.size[1] + 1) // 2)
        x = ctm.norm(_token_conv(ctm.conv, state, size))
        score = _linear(ctm.score, x)
        before = state._replace(x=x)
        clusters = max(-(-x.shape[1] // 4), 1)
        with torch.no_grad():
            label = cluster(x, clusters, self.noise)
        return _merge(before, label, clusters, score.exp(), size), before, score


def _linear(module: Any, x: Tensor) -> Tensor:
    """Torch's own, whatever our linear layers have become."""
    return F.linear(x, module.weight, module.bias)


def _depthwise(conv: Any, feature_map: Tensor) -> Tensor:
    return F.conv2d(feature_map, conv.weight, conv.bias, padding=1, groups=conv.groups)


def cluster(x: Tensor, clusters: int, noise: float = NOISE) -> Tensor:
    """DPC-KNN through full matrices, (B, N, C) -> (B, N)."""
    distance = torch.cdist(x, x) / x.shape[-1] ** 0.5
    nearest = distance.topk(NEIGHBORS, dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    density = density + noise * torch.rand_like(density)
    denser = (density[:, None, :] > density[:, :, None]).type(x.dtype)
    farthest = distance.flatten(1).max(dim=-1).values[:, None, None]
    separation, _ = (distance * denser + farthest * (1 - denser)).min(dim=-1)
    center = (separation * density).topk(clusters, dim=-1).indices
    rows = distance.gather(1, center.unsqueeze(-1).expand(-1, -1, x.shape[1]))
    label: Tensor = rows.argmin(dim=1)
    own = torch.arange(clusters, device=x.device).expand_as(center)
    return label.scatter(1, center, own)


def _merge(
    state: _State, label: Tensor, clusters: int, weight: Tensor, size: tuple[int, int]
) -> _State:
    """Weighted means of the clusters by index_add; cells follow their tokens."""
    batch, tokens, channels = state.x.shape
    flat = (label + _offsets(label, clusters)).flatten()
    weight = weight.reshape(batch * tokens, 1).to(state.x.dtype)
    total = weight.new_zeros(batch * clusters, 1).index_add(0, flat, weight) + EPS
    weight = weight / total[flat]
    weighted = state.x.reshape(batch * tokens, channels) * weight
    merged = weighted.new_zeros(batch * clusters, channels).index_add(0, flat, weighted)
    share = state.share * weight.view(batch, tokens, 1).gather(1, state.token.unsqueeze(-1))
    token = label.gather(1, state.token)
    return _State(merged.view(batch, clusters, channels), token, share, state.grid, size)


def _offsets(index: Tensor, count: int) -> Tensor:
    return torch.arange(index.shape[0], device=index.device)[:, None] * count


def _pixels(state: _State, size: tuple[int, int]) -> Tensor:
    return pixel_of_cell(state.grid, size, state.token.device).expand_as(state.token)


def through_cells(x: Tensor, source: Tensor, target: Tensor, count: int) -> Tensor:
    """Means of (B, S, C) over the cells of every target, by a matrix that is built for this."""
    batch, sources, channels = x.shape
    ones = torch.ones_like(source, dtype=torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        if sources * count < source.shape[1]:  # few of both: a dense matrix is smaller
            image = torch.arange(batch, device=x.device)[:, None].expand_as(source)
            matrix = ones.new_zeros(batch, count, sources)
            matrix.index_put_((image, target, source), ones, accumulate=True)
            matrix = matrix / (matrix.sum(dim=-1, keepdim=True) + EPS)
            return (matrix @ x.float()).to(x.dtype)
        row = (target + _offsets(target, count)).flatten()
        column = (source + _offsets(source, sources)).flatten()
        place, shape = torch.stack((row, column)), (batch * count, batch * sources)
        counted = _coalesced(place, ones.flatten(), shape)
        total = torch.sparse.mm(counted, ones.new_ones(batch * sources, 1)) + EPS
        weight = ones.flatten() / total[row, 0]
        matrix = _coalesced(place, weight, shape)
        out: Tensor = torch.sparse.mm(matrix, x.reshape(batch * sources, channels).float())
    return out.view(batch, count, channels).to(x.dtype)


def directions(layout: Layout, to_map: bool) -> tuple[Tensor, Tensor, int]:
    """The source and target of every cell and the number of targets, for `through_cells`."""
    token = layout.cell_to_token
    pixel = pixel_of_cell(layout.grid_size, layout.map_size, token.device).expand_as(token)
    if to_map:
        return token, pixel, layout.map_size[0] * layout.map_size[1]
    return pixel, token, layout.num_tokens


def _coalesced(place: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    # Saying False aloud is what keeps torch from warning about it.
    return torch.sparse_coo_tensor(place, value, shape, check_invariants=False).coalesce()


def _to_map(state: _State, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens to a feature map (B, C, H, W)."""
    count = size[0] * size[1]
    if x.shape[1] != state.token.shape[1] or x.shape[1] != count:
        x = through_cells(x, state.token, _pixels(state, size), count)
    return x.permute(0, 2, 1).reshape(x.shape[0], -1, *size).contiguous()


def _to_tokens(state: _State, feature_map: Tensor, count: int) -> Tensor:
    """A feature map to tokens (B, N, C)."""
    size = (feature_map.shape[2], feature_map.shape[3])
    x = feature_map.flatten(2).permute(0, 2, 1).contiguous()
    if count == state.token.shape[1] == x.shape[1]:
        return x
    return through_cells(x, _pixels(state, size), state.token, count)


def _token_conv(conv: Any, state: _State, size: tuple[int, int]) -> Tensor:
    feature_map = _to_map(state, state.x, state.size)
    feature_map = F.conv2d(
        feature_map, conv.weight, conv.bias, conv.stride, conv.padding, 1, conv.groups
    )
    skip = F.conv1d(state.x.permute(0, 2, 1), conv.skip.weight, groups=conv.groups).permute(0, 2, 1)
    mixed: Tensor = skip + _to_tokens(state, feature_map, state.x.shape[1])
    return mixed


def _attention(attn: Any, x: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
    batch, count, channels = x.shape
    heads, width = attn.num_heads, channels // attn.num_heads
    q = _linear(attn.q, x).reshape(batch, count, heads, width).permute(0, 2, 1, 3)
    kv = _linear(attn.kv, keys).reshape(batch, -1, 2, heads, width).permute(2, 0, 3, 1, 4)
    weights = (q * width**-0.5) @ kv[0].transpose(-2, -1)
    if bias is not None:
        weights = weights + bias[:, None, None, :]
    weights = weights.softmax(dim=-1)
    out = (weights @ kv[1]).transpose(1, 2).reshape(batch, count, channels)
    return _linear(attn.proj, out)


def _reduced(attn: Any, feature_map: Tensor) -> Tensor:
    keys: Tensor = attn.norm(attn.sr(feature_map).flatten(2).permute(0, 2, 1))
    return keys


def _grid_block(block: Any, state: _State) -> Tensor:
    x, grid = state.x, state.grid
    normed = keys = block.norm1(x)
    if block.attn.sr_ratio > 1:
        keys = _reduced(block.attn, _to_map(state, normed, grid))
    x = x + block.drop_path(_attention(block.attn, normed, keys, None))
    hidden = _to_map(state, _linear(block.mlp.fc1, block.norm2(x)), grid)
    hidden = _depthwise(block.mlp.dwconv.dwconv, hidden).flatten(2).permute(0, 2, 1)
    out: Tensor = x + block.drop_path(_linear(block.mlp.fc2, F.gelu(hidden)))
    return out


def _token_block(block: Any, state: _State, source: _State, score: Tensor | None) -> Tensor:
    attn = block.attn
    normed = block.norm1(state.x)
    keys = normed if score is None else block.norm1(source.x)
    bias = None if score is None else score.squeeze(-1)
    if attn.sr_ratio > 1:
        if score is None:
            feature_map = _to_map(source, keys, state.size)
        else:
            both = _to_map(source, torch.cat((keys, score.to(keys.dtype)), dim=-1), state.size)
            feature_map = both[:, :-1].contiguous()
            window = (attn.sr_ratio, attn.sr_ratio)
            bias = F.avg_pool2d(both[:, -1:], window).flatten(1)
        keys = _reduced(attn, feature_map)
    x = state.x + block.drop_path(_attention(attn, normed, keys, bias))
    hidden = state._replace(x=_linear(block.mlp.fc1, block.norm2(x)))
    hidden_x = F.gelu(_token_conv(block.mlp.dwconv, hidden, state.size))
    out: Tensor = x + block.drop_path(_linear(block.mlp.fc2, hidden_x))
    return out

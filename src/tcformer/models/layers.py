"""The layers of TCFormer that are neither blocks nor MLPs: stem, token convolution, attention.

Attribute names are those of the published state dict, so that the authors' files load as they are.
"""

from __future__ import annotations

import math
from types import NoneType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils.module_tracker import ModuleTracker

from tcformer.ops import TokenMap, attend, linear
from tcformer.ops.regroup import apply_plan

__all__ = [
    "Attention",
    "LayerNorm",
    "Linear",
    "PatchEmbed",
    "conv_with_skip",
    "convolve_tokens",
    "init_weights",
    "is_plain",
]


def init_weights(module: nn.Module) -> None:
    """Initialise one module as the published model does (spec of the weights: docs/numerics.md).

    Linear layers: normal, std 0.02. 2-d convolutions: normal, std sqrt(2 / fan_out). The 1-d
    skips of token convolutions keep PyTorch's default, as the published initialiser never
    reached them.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2.0 * module.groups / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Linear(nn.Linear):
    """``nn.Linear`` through :func:`tcformer.ops.linear`: the same parameters and numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., N, Cin) -> (..., N, Cout)."""
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` with exact gradients in half precision on a CPU.

    There PyTorch (2.15) adds up the gradients of weight and bias in bfloat16: 10 to 66 % off over
    the tokens of stage 1. The output is the same, so without a gradient nothing changes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same shape and dtype."""
        half = x.dtype in (torch.bfloat16, torch.float16)
        if not (half and x.device.type == "cpu" and torch.is_grad_enabled()):
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class PatchEmbed(nn.Module):
    """The stem: 7x7 convolution of stride 4 and a norm; the only place that sees pixels.

    ``forward``: (B, in_chans, Hi, Wi) -> (B, H0*W0, C) and the grid (H0, W0) = ceil(size / 4).
    """

    def __init__(self, in_chans: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=7, stride=4, padding=3)
        self.norm = LayerNorm(embed_dim, eps=1e-5)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Cut images into the grid of tokens."""
        x = self.proj(images)
        grid_size = (x.shape[2], x.shape[3])
        return self.norm(x.permute(0, 2, 3, 1).flatten(1, 2)), grid_size


def is_plain(module: nn.Module) -> bool:
    """Whether reading the parameters of a layer is all that calling it would do.

    It is not where somebody looks on (hooks), computes the parameters (parametrizations, pruning),
    replaced `forward`, put another module in its place, or quantized or distributed the weights.
    """
    weight = getattr(module, "weight", None)
    return (
        type(module) in (Linear, nn.Conv1d, nn.Conv2d, nn.Sequential)
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        and not ((hooks._global_forward_hooks or hooks._global_forward_pre_hooks) and _watched())
        and not (hooks._global_backward_hooks or hooks._global_backward_pre_hooks)
        and (torch.compiler.is_compiling() or type(weight) in (nn.Parameter, Tensor, NoneType))
    )


def _watched() -> bool:
    """Whether a hook on all modules is another's than that of torch's FLOP counter.

    That one only notes where the operations take place, and is to count what runs without it.
    """
    found = (*hooks._global_forward_hooks.values(), *hooks._global_forward_pre_hooks.values())
    return not all(isinstance(getattr(hook, "__self__", None), ModuleTracker) for hook in found)


def conv_with_skip(
    in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """The layers of a token convolution: 3x3, and inside it `skip`, 1x1 without bias.

    Both are PyTorch's own classes, so what other tools do to convolutions works on them; one is
    inside the other because that is where the published files have it.
    """
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups)
    conv.skip = nn.Conv1d(in_channels, out_channels, 1, groups=groups, bias=False)
    return conv


def convolve_tokens(conv: nn.Module, x: Tensor, to_map: TokenMap, to_tokens: TokenMap) -> Tensor:
    """Convolve tokens: ``skip(x) + map_to_tokens(conv(tokens_to_map(x)))``.

    The way over the map mixes neighbours but blurs what shares a pixel; the skip keeps every
    token's own detail.

    Args:
        conv: from :func:`conv_with_skip`, whatever other tools put around it or its skip; or one
            without a skip.
        x: (B, N, Cin), the tokens.
        to_map: plan between the tokens and the map that is convolved.
        to_tokens: plan between the tokens and the map that comes out (another size where the
            stride is 2).

    Returns:
        (B, N, Cout).

    Source: TCFormer (CVPR 2022), section 3.3.
    """
    flat = x if to_map.to_map is None else apply_plan(x, to_map.to_map)
    picture = conv(flat.view(x.shape[0], *to_map.map_size, x.shape[2]).permute(0, 3, 1, 2))
    mixed = picture.permute(0, 2, 3, 1).flatten(1, 2)
    if to_tokens.to_tokens is not None:
        mixed = apply_plan(mixed, to_tokens.to_tokens)
    layers = (layer for name, layer in conv.named_modules() if f".{name}".endswith(".skip"))
    skip = next(layers, None)
    if skip is None:
        return mixed
    if is_plain(skip) and skip.groups == 1:
        own = linear(x, skip.weight.squeeze(-1))
    else:
        own = skip(x.transpose(1, 2)).transpose(1, 2)
    # Under autocast the sum is made in float32 all the same: it decides the clusters.
    wide = torch.is_autocast_enabled(own.device.type) and own.dtype != torch.float64
    return (own.float() if wide else own) + mixed


class Attention(nn.Module):
    """Multi-head attention over keys that were reduced on a map, with an importance bias.

    Args:
        dim: C, split evenly over the heads.
        num_heads: number of heads.
        sr_ratio: r; keys are taken from a map that was shrunk r times in both directions.
        qkv_bias: whether q and kv have a bias.
        attn_drop: dropout of attention weights.
        proj_drop: dropout after the output projection.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int = 1,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"Attention: {num_heads} heads do not divide {dim} channels.")
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.attn_drop = attn_drop
        self.q = Linear(dim, dim, bias=qkv_bias)
        self.kv = Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = LayerNorm(dim, eps=1e-5)

    def window(self, map_size: tuple[int, int]) -> tuple[int, int]:
        """The reduction that fits a map: r, or the whole side of a map smaller than r."""
        return min(self.sr_ratio, map_size[0]), min(self.sr_ratio, map_size[1])

    def reduce(self, picture: Tensor) -> Tensor:
        """Shrink a map (B, C, H, W) r times into (B, floor(H/r)*floor(W/r), C) keys.

        Rows and columns that do not fill a window are left out, as in the published model. A map
        smaller than r is seen by the part of the kernel that lies on it.
        """
        (h, w) = self.window((picture.shape[2], picture.shape[3]))
        if not is_plain(self.sr):
            missing = (0, self.sr_ratio - w, 0, self.sr_ratio - h)  # zeros beyond a smaller map
            return self.norm(self.sr(F.pad(picture, missing)).flatten(2).transpose(1, 2))
        batch, channels = picture.shape[:2]
        rows, columns = picture.shape[2] // h, picture.shape[3] // w
        # Windows do not overlap, so the convolution is one matrix product. Its blocked sums halve
        # the rounding error of a direct convolution (up to 4096 terms), on which clusters hang:
        # tests/models/test_golden.py::test_training_follows_the_published_code.
        patches = picture[:, :, : rows * h, : columns * w].permute(0, 2, 3, 1)
        patches = patches.reshape(batch, rows, h, columns, w, channels).transpose(2, 3)
        weight = self.sr.weight[:, :, :h, :w].permute(0, 2, 3, 1).flatten(1)
        return self.norm(linear(patches.reshape(batch, rows * columns, -1), weight, self.sr.bias))

    def forward(self, x: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend from (B, N, C) to (B, Nk, C) with a bias (B, Nk) on the keys."""
        batch, num_queries, dim = x.shape
        heads, width = self.num_heads, dim // self.num_heads
        q = self.q(x).view(batch, num_queries, heads, width).transpose(1, 2)
        k, v = self.kv(keys).view(batch, keys.shape[1], 2, heads, width).permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop if self.training else 0.0
        x = attend(q, k, v, bias=bias, dropout=dropout)
        x = x.transpose(1, 2).reshape(batch, num_queries, dim)
        return self.proj_drop(self.proj(x))

"""MTA, multi-stage token aggregation: the tokens of all stages become a pyramid of maps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcformer.arguments import as_float, as_int, as_list, read_each
from tcformer.models.layers import LayerNorm, is_plain
from tcformer.models.sizes import several
from tcformer.models.tcformer import Block, TokenMlp, init_weights
from tcformer.ops import TokenMap, plan_token_map, tokens_to_map, tokens_to_tokens
from tcformer.ops.regroup import plan_regroup
from tcformer.shapes import Float, shaped
from tcformer.tokens import Layout, Tokens, pixel_of_cell

__all__ = ["MTA", "REDUCTIONS", "AggregationBlock"]

REDUCTIONS = ("conv", "pool", "cluster", "cluster_linear", "cluster_norm", "cluster_norm_twice")
"""How a level's keys are made fewer; :class:`MTA` says what each does."""

EXTRA = (False, True, "on_input", "on_output")


class AggregationBlock(Block):
    """Transformer block of one level of the pyramid.

    Its keys are the level's own tokens, reduced on their map or merged by the last stage's
    clusters. No importance is added to the attention: merged tokens carry none.

    Source: TCFormer (CVPR 2022), section 3.4.
    """

    mlp_class = TokenMlp

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        sr_ratio: int,
        reduction: str,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__(
            dim,
            num_heads,
            mlp_ratio,
            sr_ratio if reduction == "conv" else 1,
            qkv_bias,
            proj_drop,
            attn_drop,
            drop_path,
            norm_eps=1e-5,
        )
        self.reduction = reduction
        self.pool = sr_ratio if reduction == "pool" else 1
        # Inside `attn`, because that is where the published files have them.
        if reduction == "cluster_linear":
            self.attn.gather = nn.Linear(dim, dim)
        if reduction not in ("conv", "pool", "cluster"):
            self.attn.norm = LayerNorm(dim, eps=1e-5)

    @shaped
    def forward(self, tokens: Tokens, plan: TokenMap, clusters: Layout) -> Float[Tensor, "b n c"]:
        """Return the new features (B, N, C) of a level's tokens.

        Args:
            tokens: N tokens with their layout.
            plan: between these tokens and the level's map.
            clusters: the layout of the backbone's last stage.
        """
        x = self.norm1(tokens.x)
        if self.reduction == "cluster_norm_twice":
            x = self.norm1(x)
        keys = self._keys(tokens._replace(x=x), plan, clusters)
        x = tokens.x + self.drop_path(self.attn(x, keys))
        if self.reduction.startswith("cluster_norm"):
            plan = _weighted_plan(tokens.layout, plan, x.dtype)
        return x + self.drop_path(self.mlp(self.norm2(x), plan))

    def _keys(self, tokens: Tokens, plan: TokenMap, clusters: Layout) -> Tensor:
        if self.reduction == "conv":
            if self.attn.sr_ratio == 1:
                return tokens.x
            return self.attn.reduce(tokens_to_map(tokens, plan=plan))
        if self.reduction == "pool":
            if self.pool == 1:
                return tokens.x
            # A map smaller than the window is averaged as a whole; remainders are left out.
            window = (min(self.pool, plan.map_size[0]), min(self.pool, plan.map_size[1]))
            pooled = F.avg_pool2d(tokens_to_map(tokens, plan=plan), window)
            return pooled.flatten(2).transpose(1, 2)
        keys = tokens_to_tokens(tokens, clusters)
        if self.reduction == "cluster":
            return keys
        if self.reduction == "cluster_linear":
            keys = self.attn.get_submodule("gather")(keys)
        return F.gelu(self.attn.norm(keys))


class MTA(nn.Module):
    """Multi-stage token aggregation: tokens in, a pyramid of maps out.

    From the coarsest level to the finest, each level's tokens receive those of the level above
    (regrouped, so that detail is kept where tokens are small) and pass a transformer block; only
    then are they laid out as maps.

    ========================  ===================================================================
    ``reduction``             keys of a level
    ========================  ===================================================================
    ``"conv"``                strided convolution of the level's map, then a norm (published
                              default)
    ``"pool"``                average pooling of the level's map (published pose models)
    ``"cluster"``             CR-MTA: the level's tokens merged by the last stage's clusters
    ``"cluster_linear"``      the same, then Linear, norm and GELU (the authors' early revision)
    ``"cluster_norm"``        the same, then norm and GELU; maps are read back to tokens by the
                              cells' weights (the authors' development fork, as it was meant)
    ``"cluster_norm_twice"``  the same with the block's first norm applied twice (as it ran)
    ========================  ===================================================================

    Args:
        in_channels: channels of the backbone's stages, finest first.
        out_channels: channels of every map.
        num_outs: number of maps; one a level when left out. Fewer than levels: the finest ones.
            More: extra levels, each half the size of the one before.
        start_level: the first stage that is used (0 for stride 4).
        end_level: the last stage that is used; -1 for the last there is.
        num_heads: attention heads of each level's block; one number or one a stage.
        mlp_ratios: hidden width of the MLPs over the channels; one number or one a stage.
        sr_ratios: reduction of the key maps; one number or one a stage. For "conv" and "pool".
        qkv_bias: whether queries, keys and values have a bias.
        reduction: one of :data:`REDUCTIONS`, see the table.
        add_extra_convs: how extra levels are made: False subsamples the last map; "on_input" (or
            True) convolves the last used stage's own map with stride 2, "on_output" the last map
            of the pyramid; further levels convolve the one before.
        relu_before_extra_convs: apply a ReLU before every such convolution but the first.
        proj_drop: dropout after attention projections and inside MLPs.
        attn_drop: dropout of attention weights.
        drop_path: stochastic depth of every block.

    Raises:
        ValueError: settings that do not belong together.

    Source: TCFormer (CVPR 2022), section 3.4; cluster reduction: TCFormerV2 (TPAMI 2024).
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (64, 128, 320, 512),
        out_channels: int = 128,
        num_outs: int | None = None,
        *,
        start_level: int = 0,
        end_level: int = -1,
        num_heads: int | Sequence[int] = 2,
        mlp_ratios: float | Sequence[float] = 4,
        sr_ratios: int | Sequence[int] = (8, 4, 2, 1),
        qkv_bias: bool = True,
        reduction: str = "conv",
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        in_channels = [as_int("MTA: in_channels", width) for width in as_list(in_channels) or []]
        stages = len(in_channels)
        if reduction not in REDUCTIONS:
            known = ", ".join(REDUCTIONS)
            raise ValueError(f"MTA: reduction must be one of {known}, not {reduction!r}.")
        if add_extra_convs not in EXTRA:
            raise ValueError(
                "MTA: add_extra_convs must be False, True, 'on_input' or 'on_output', "
                f"not {add_extra_convs!r}."
            )
        if not stages:
            raise ValueError("MTA: in_channels must name every stage, not none.")
        out_channels = as_int("MTA: out_channels", out_channels)
        start_level = as_int("MTA: start_level", start_level, None)
        end_level = as_int("MTA: end_level", end_level, None)
        last = stages - 1 if end_level == -1 else end_level
        if not 0 <= start_level <= last < stages:
            raise ValueError(
                f"MTA: start_level {start_level} and end_level {end_level} do not lie in order "
                f"within the {stages} stages of in_channels."
            )
        read = partial(several, count=stages, or_one=True)
        heads, reductions = read_each("MTA", read, num_heads=num_heads, sr_ratios=sr_ratios)
        above_zero = partial(as_float, above=True)
        ratios = read("MTA: mlp_ratios", mlp_ratios, read=above_zero)
        rates = read_each(
            "MTA",
            partial(as_float, high=1.0),
            proj_drop=proj_drop,
            attn_drop=attn_drop,
            drop_path=drop_path,
        )
        levels = last - start_level + 1
        num_outs = levels if num_outs is None else as_int("MTA: num_outs", num_outs)
        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        self.num_outs = num_outs
        self.start_level = start_level
        self.end_level = last
        self.reduction = reduction
        self.add_extra_convs = "on_input" if add_extra_convs is True else add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs

        self.lateral_convs = nn.ModuleList(
            _Lateral(channels, out_channels) for channels in in_channels[start_level : last + 1]
        )
        self.merge_blocks = nn.ModuleList(
            AggregationBlock(
                out_channels,
                heads[stage],
                ratios[stage],
                reductions[stage],
                reduction,
                qkv_bias,
                *rates,
            )
            for stage in range(start_level, last)
        )
        if self.add_extra_convs:
            source = in_channels[last] if self.add_extra_convs == "on_input" else out_channels
            self.extra_convs = nn.ModuleList(
                _extra_conv(out_channels if extra else source, out_channels)
                for extra in range(num_outs - levels)
            )
        self.apply(init_weights)

    def forward(self, tokens: Sequence[Tokens]) -> list[Tensor]:
        """Aggregate the tokens of all stages.

        Args:
            tokens: what ``forward_tokens`` of a backbone returns, (B, N_s, C_s) with layouts.

        Returns:
            ``num_outs`` maps (B, out_channels, H, W), finest first. At 224 px and start level 0
            the sides are 56, 28, 14, 7, 4 ...

        Raises:
            ValueError: the tokens are not those of a backbone with these channels.
        """
        self._check(tokens)
        used = tokens[self.start_level : self.end_level + 1]
        maps: list[Tensor] = []
        above: Tokens | None = None
        for level in reversed(range(len(used))):
            layout = used[level].layout
            x = self.lateral_convs[level](used[level].x)
            plan = plan_token_map(layout, dtype=x.dtype)
            if above is not None:
                x = x + tokens_to_tokens(above, layout)
                x = self.merge_blocks[level](Tokens(x, layout), plan, tokens[-1].layout)
            above = Tokens(x, layout)
            if level < self.num_outs:
                maps.insert(0, tokens_to_map(above, plan=plan))
        for extra in range(self.num_outs - len(used)):
            maps.append(self._extra_level(extra, maps[-1], used[-1]))
        return maps

    def _extra_level(self, extra: int, finer: Tensor, stage: Tokens) -> Tensor:
        if not self.add_extra_convs:
            return F.max_pool2d(finer, kernel_size=1, stride=2)
        if extra == 0 and self.add_extra_convs == "on_input":
            finer = tokens_to_map(stage)
        elif extra > 0 and self.relu_before_extra_convs:
            finer = F.relu(finer)
        return self.extra_convs[extra](finer)

    def _check(self, tokens: Sequence[Tokens]) -> None:
        listed = isinstance(tokens, (list, tuple)) and not isinstance(tokens, Tokens)
        if not listed or not all(isinstance(stage, Tokens) for stage in tokens):
            given = f"a list of {type(tokens[0]).__name__}" if listed else type(tokens).__name__
            raise ValueError(
                "MTA takes the list of tokens that `forward_tokens` of a backbone returns, "
                f"not {given}."
            )
        found = tuple(stage.x.shape[-1] for stage in tokens)
        if found != self.in_channels:
            raise ValueError(
                f"MTA: the stages have {list(found)} channels, but in_channels says "
                f"{list(self.in_channels)}."
            )
        # No set: an open batch size cannot be hashed while exporting.
        first = (tokens[0].x.shape[0], tokens[0].layout.grid_size)
        if any((stage.x.shape[0], stage.layout.grid_size) != first for stage in tokens):
            raise ValueError("MTA: the stages differ in batch size or grid: not of one forward.")


class _Lateral(nn.Module):
    """A 1x1 convolution on tokens, stored as the published files have it."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if is_plain(self.conv):
            return F.linear(x, self.conv.weight.flatten(1), self.conv.bias)
        return self.conv(x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)


def _extra_conv(in_channels: int, out_channels: int) -> nn.Module:
    """The 3x3 convolution of stride 2 that makes an extra level."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    return nn.Sequential(OrderedDict(conv=conv))


def _weighted_plan(layout: Layout, plan: TokenMap, dtype: torch.dtype) -> TokenMap:
    """Let maps be read back to tokens by the weights of their cells instead of evenly."""
    if plan.to_tokens is None:
        return plan
    cells = layout.cell_to_token
    pixels = pixel_of_cell(layout.grid_size, plan.map_size, cells.device).expand_as(cells)
    to_tokens = plan_regroup(
        pixels,
        cells,
        plan.map_size[0] * plan.map_size[1],
        layout.num_tokens,
        weight=layout.cell_weight,
        dtype=torch.promote_types(dtype, torch.float32),
    )
    return plan._replace(to_tokens=to_tokens)

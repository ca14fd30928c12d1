"""TCFormer, read downwards: stem, token convolution, attention, MLP, blocks, CTM, network.

Attribute names are those of the published state dict, so that the authors' files load as they are.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tcformer.arguments import as_float, as_int, read_each
from tcformer.models.layers import LayerNorm, Linear, is_plain
from tcformer.models.sizes import NUM_STAGES, WIDTHS, MergeRule, check_pool, merge_rules, several
from tcformer.ops import (
    TokenMap,
    attend,
    cluster_windows,
    linear,
    merge_tokens,
    plan_token_map,
    token_conv,
    tokens_to_map,
)
from tcformer.ops.local import cut
from tcformer.ops.regroup import apply_plan
from tcformer.ops.token_conv.chunked import suits_chunks, token_mlp
from tcformer.shapes import Float, shaped
from tcformer.tokens import Tokens, grid_layout

__all__ = [
    "CTM",
    "Attention",
    "Block",
    "GridBlock",
    "GridMlp",
    "KeySource",
    "PatchEmbed",
    "TCFormer",
    "TokenBlock",
    "TokenMlp",
    "conv_with_skip",
    "convolve_tokens",
    "init_weights",
]

SAME = 1e-3
"""Tokens at this distance or less (features are of size 1 after the norm) count as equal.

Flat parts of an image are full of tokens that are equal but for rounding, and how a product is
rounded depends on the size of the batch. Without this the last bits would say which of them are
centers. A matrix product in float32 cannot tell such distances from zero, nor could the published
code: tests/models/test_backbone.py::test_nor_does_a_flat_image_or_a_half_flat_one.
"""


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


class PatchEmbed(nn.Module):
    """The stem: 7x7 convolution of stride 4 and a norm; the only place that sees pixels.

    ``forward``: (B, in_chans, Hi, Wi) -> (B, H0*W0, C) and the grid (H0, W0) = ceil(size / 4).
    """

    def __init__(self, in_chans: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=7, stride=4, padding=3)
        self.norm = LayerNorm(embed_dim, eps=1e-5)

    @shaped
    def forward(self, images: Float[Tensor, "b cin hi wi"]) -> tuple[Tensor, tuple[int, int]]:
        """Cut images into the grid of tokens."""
        x = self.proj(images)
        grid_size = (x.shape[2], x.shape[3])
        return self.norm(x.permute(0, 2, 3, 1).flatten(1, 2)), grid_size


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

    The way over the map mixes neighbors but blurs what shares a pixel; the skip keeps every
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
    feature_map = conv(flat.view(x.shape[0], *to_map.map_size, x.shape[2]).permute(0, 3, 1, 2))
    mixed = feature_map.permute(0, 2, 3, 1).flatten(1, 2)
    if to_tokens.to_tokens is not None:
        mixed = apply_plan(mixed, to_tokens.to_tokens)
    skip = None
    for name, layer in conv.named_modules():
        if f".{name}".endswith(".skip"):
            skip = layer
            break
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

    def reduce(self, feature_map: Tensor) -> Tensor:
        """Shrink a map (B, C, H, W) r times into (B, floor(H/r)*floor(W/r), C) keys.

        Rows and columns that do not fill a window are left out, as in the published model. A map
        smaller than r is seen by the part of the kernel that lies on it.
        """
        h, w = min(self.sr_ratio, feature_map.shape[2]), min(self.sr_ratio, feature_map.shape[3])
        if not is_plain(self.sr):
            missing = (0, self.sr_ratio - w, 0, self.sr_ratio - h)  # zeros beyond a smaller map
            return self.norm(self.sr(F.pad(feature_map, missing)).flatten(2).transpose(1, 2))
        batch, channels = feature_map.shape[:2]
        rows, columns = feature_map.shape[2] // h, feature_map.shape[3] // w
        # Windows do not overlap, so the convolution is one matrix product. Its blocked sums halve
        # the rounding error of a direct convolution (up to 4096 terms), on which clusters hang:
        # tests/models/test_golden.py::test_training_follows_the_published_code.
        patches = feature_map[:, :, : rows * h, : columns * w].permute(0, 2, 3, 1)
        patches = patches.reshape(batch, rows, h, columns, w, channels).transpose(2, 3)
        weight = self.sr.weight[:, :, :h, :w].permute(0, 2, 3, 1).flatten(1)
        return self.norm(linear(patches.reshape(batch, rows * columns, -1), weight, self.sr.bias))

    @shaped
    def forward(
        self,
        x: Float[Tensor, "b n c"],
        keys: Float[Tensor, "b nk c"],
        bias: Float[Tensor, "b nk"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Attend from (B, N, C) to (B, Nk, C) with a bias (B, Nk) on the keys."""
        batch, num_queries, dim = x.shape
        heads, width = self.num_heads, dim // self.num_heads
        q = self.q(x).view(batch, num_queries, heads, width).transpose(1, 2)
        k, v = self.kv(keys).view(batch, keys.shape[1], 2, heads, width).permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop if self.training else 0.0
        x = attend(q, k, v, bias=bias, dropout=dropout)
        x = x.transpose(1, 2).reshape(batch, num_queries, dim)
        return self.proj_drop(self.proj(x))


class _Mlp(nn.Module):
    dwconv: Any  # a module

    def __init__(self, dim: int, hidden: int, conv: nn.Module, drop: float = 0.0):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.dwconv = conv
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight, bias and skip of the convolution; on the grid it has none."""
        skip = getattr(self.dwconv, "skip", None)
        conv = self.dwconv.dwconv if skip is None else self.dwconv
        return conv.weight, conv.bias, None if skip is None else skip.weight.flatten()

    @shaped
    def forward(self, x: Float[Tensor, "b n c"], plan: TokenMap) -> Float[Tensor, "b n c"]:
        """(B, N, C) features of tokens -> the same shape; the plan leads to their map and back."""
        if self._runs_in_chunks(x, plan):
            fc1, fc2 = self.fc1, self.fc2
            ends = (fc1.weight, fc1.bias), (fc2.weight, fc2.bias)
            return token_mlp(x, plan, ends[0], self._weights(), ends[1])
        x = self.fc1(x)
        if is_plain(*self.dwconv.modules()):
            x = token_conv(x, plan, *self._weights(), gelu=True)
        else:
            x = F.gelu(convolve_tokens(self.dwconv, x, plan, plan))
        return self.drop(self.fc2(self.drop(x)))

    def _runs_in_chunks(self, x: Tensor, plan: TokenMap) -> bool:
        """Whether to infer a few images at a time, with memory that is written over.

        Not where somebody looks on from outside and expects whole batches, nor where another layer
        stands, whose result may be somebody else's.
        """
        return (
            x.device.type == "cpu"
            and not (self.training and self.drop.p > 0)
            and suits_chunks(x, plan)
            and is_plain(self.fc1, *self.dwconv.modules(), self.fc2)
            and not (self.drop._forward_hooks or self.drop._forward_pre_hooks)
            and (not torch.compiler.is_compiling() or x.dtype == self.fc1.weight.dtype)
        )


class GridMlp(_Mlp):
    """MLP of the first stage: its convolution runs on the grid itself."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        # Under the doubled name that it has in the published files.
        super().__init__(dim, hidden, nn.Sequential(OrderedDict(dwconv=conv)), drop)


class TokenMlp(_Mlp):
    """MLP of the dynamic stages: its convolution runs on tokens."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        super().__init__(dim, hidden, conv_with_skip(hidden, hidden, groups=hidden), drop)


class KeySource(NamedTuple):
    """What a stage's first block attends to: the tokens before they were merged.

    Attributes:
        tokens: N_old tokens with their old layout, (B, N_old, C).
        score: (B, N_old) float, their importance.
        plan: between these tokens and the map of the new stage.
    """

    tokens: Tokens
    score: Tensor
    plan: TokenMap


class Block(nn.Module):
    """What all blocks hold: norm, attention, norm, MLP, and stochastic depth on both branches."""

    mlp_class: ClassVar[type[GridMlp] | type[TokenMlp]]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        sr_ratio: int,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, sr_ratio, qkv_bias, attn_drop, proj_drop)
        self.norm2 = LayerNorm(dim, eps=norm_eps)
        self.mlp = self.mlp_class(dim, int(dim * mlp_ratio), proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()


class GridBlock(Block):
    """Transformer block of the first stage, where a token is a cell of the grid."""

    mlp_class = GridMlp

    @shaped
    def forward(self, x: Float[Tensor, "b n c"], plan: TokenMap) -> Float[Tensor, "b n c"]:
        """(B, H0*W0, C) -> the same shape; the map of the plan is the grid."""
        keys = queries = self.norm1(x)
        if self.attn.sr_ratio > 1:
            grid = queries.view(x.shape[0], *plan.map_size, x.shape[2]).permute(0, 3, 1, 2)
            keys = self.attn.reduce(grid)
        x = x + self.drop_path(self.attn(queries, keys))
        return x + self.drop_path(self.mlp(self.norm2(x), plan))


class TokenBlock(Block):
    """Transformer block on tokens of any shape.

    The first block of a stage takes its keys from the tokens before the merge (:class:`KeySource`),
    whose importance is added to the attention scores; the others take them from their own tokens.

    Source: TCFormer (CVPR 2022), section 3.3, figure 4.
    """

    mlp_class = TokenMlp

    @shaped
    def forward(
        self, tokens: Tokens, plan: TokenMap, source: KeySource | None = None
    ) -> Float[Tensor, "b n c"]:
        """Return the new features (B, N, C) of the tokens.

        Args:
            tokens: N tokens with their layout.
            plan: between these tokens and the stage's map.
            source: the un-merged tokens, for the first block of a stage.
        """
        x = tokens.x
        queries = self.norm1(x)
        if source is None:
            key_tokens, key_plan, bias = tokens._replace(x=queries), plan, None
        else:
            key_tokens = source.tokens._replace(x=self.norm1(source.tokens.x))
            key_plan, bias = source.plan, source.score
        keys = key_tokens.x
        if self.attn.sr_ratio > 1:
            keys = self.attn.reduce(tokens_to_map(key_tokens, plan=key_plan))
            if source is not None:
                # The score is averaged as it is, not as exp(score): the released weights expect it.
                score = source.tokens._replace(x=source.score.unsqueeze(-1))
                window = self.attn.window(key_plan.map_size)
                bias = F.avg_pool2d(tokens_to_map(score, plan=key_plan), window).flatten(1)
        x = x + self.drop_path(self.attn(queries, keys, bias))
        return x + self.drop_path(self.mlp(self.norm2(x), plan))


class CTM(nn.Module):
    """Clustering-based token merging.

    A strided token convolution changes the width, DPC-KNN groups the tokens, and each group is
    merged into one token by importance. The un-merged tokens live on as the keys of the next
    stage's first block.

    With part grids (Local CTM, V2) tokens are grouped inside P windows of the image only, which
    leaves one P-th of the distances. No parameter is added.

    Args:
        in_dim: channels of the stage before.
        out_dim: channels of the stage after.
        rule: how many tokens are left, and of which neighbors and windows.
        density_noise: amplitude of the uniform noise on densities that the published code draws
            (1e-6); 0, deterministic, unless you want to compare with it statistically.

    Source: TCFormer (CVPR 2022), section 3.2; Local CTM: TCFormerV2 (TPAMI 2024).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        rule: MergeRule = MergeRule(),  # noqa: B008 - frozen
        density_noise: float = 0.0,
    ):
        super().__init__()
        self.rule = rule
        self.density_noise = as_float("density_noise", density_noise)
        self.conv = conv_with_skip(in_dim, out_dim, stride=2)
        self.norm = LayerNorm(out_dim, eps=1e-5)
        self.score = nn.Linear(out_dim, 1)

    def forward(self, tokens: Tokens, plan: TokenMap) -> tuple[Tokens, KeySource]:
        """Merge tokens.

        Args:
            tokens: N tokens (B, N, Cin), after the norm of their stage.
            plan: between these tokens and their stage's map.

        Returns:
            M merged tokens (B, M, Cout), and the N un-merged ones as a :class:`KeySource`. With P
            windows M is a multiple of P, rounded down, and the tokens of a window stand together.
        """
        layout = tokens.layout
        height, width = layout.map_size
        new_map = ((height + 1) // 2, (width + 1) // 2)
        source_plan = plan_token_map(layout, new_map, dtype=tokens.x.dtype)
        x = convolve_tokens(self.conv, tokens.x, plan, source_plan)
        # What decides the clusters, and the weights that are exponentiated, stay in float32.
        with torch.autocast(x.device.type, enabled=False):
            x = self.norm(x.to(torch.promote_types(x.dtype, next(self.norm.parameters()).dtype)))
            score = self.score(x).squeeze(-1)
            grids, num_windows, each = self.rule.plan(layout)
            clusters = cluster_windows(
                x.detach(),
                cut(layout, grids),
                each,
                self.rule.k,
                density_noise=self._noise(x),
                tolerance=SAME,
            )
            unmerged = Tokens(x, layout)
            count = num_windows * each
            merged = merge_tokens(unmerged, clusters.assignment, count, log_weight=score)
        merged = Tokens(merged.x.to(x.dtype), merged.layout._replace(part_grids=grids))
        return merged, KeySource(unmerged, score, source_plan)

    def _noise(self, x: Tensor) -> Tensor | None:
        if self.density_noise == 0.0:
            return None
        return torch.rand(x.shape[:2], device=x.device) * self.density_noise


class TCFormer(nn.Module):
    """The Token Clustering Transformer, obeying timm's model contract.

    Stage 1 works on the grid of 4x4-pixel cells. Before each later stage the tokens are clustered
    by their features and merged (:class:`CTM`), so that detail keeps many
    small tokens and background few large ones.

    Args:
        in_chans: channels of the images.
        num_classes: width of the head; 0 for no head.
        global_pool: "avg", the plain mean over the last tokens, or "" for none.
        embed_dims: channels of the four stages.
        num_heads: attention heads of the four stages.
        mlp_ratios: hidden width of the MLPs over the channels.
        qkv_bias: whether queries, keys and values have a bias.
        depths: blocks in the four stages.
        sr_ratios: reduction of the key maps.
        keep_ratio: share of the tokens that each of the three merges leaves, one number or three;
            0.25 when left out.
        k: neighbors in the density estimate of the clustering, the token itself included.
        num_clusters: tokens that the merges leave, instead of a share; one number or three.
        part_grids: for each of the three merges the grid of windows inside which tokens are
            clustered (Local CTM): an integer or (rows, columns). Each divides the one before.
            None, as in V1, clusters over the whole image.
        drop_rate: dropout before the head.
        proj_drop_rate: dropout after attention projections and inside MLPs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        density_noise: noise on the clustering densities, for comparisons with the published code.
        device: where the parameters are created.
        dtype: of the parameters.

    Raises:
        ValueError: options that are out of range or do not belong together.
        TypeError: a count that is no integer, or a share that is no real number.

    Source: Zeng et al., "Not All Tokens Are Equal", CVPR 2022.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = WIDTHS,
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        qkv_bias: bool = True,
        depths: Sequence[int] = (3, 4, 6, 3),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        keep_ratio: float | Sequence[float] | None = None,
        k: int = 5,
        num_clusters: int | Sequence[int] | None = None,
        part_grids: Sequence[int | Sequence[int]] | None = None,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        density_noise: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_pool(global_pool)
        in_chans = as_int("TCFormer: in_chans", in_chans)
        num_classes = as_int("TCFormer: num_classes", num_classes, 0)
        embed_dims, num_heads, depths, sr_ratios = read_each(
            "TCFormer",
            partial(several, count=NUM_STAGES),
            embed_dims=embed_dims,
            num_heads=num_heads,
            depths=depths,
            sr_ratios=sr_ratios,
        )
        above_zero = partial(as_float, above=True)
        mlp_ratios = several("TCFormer: mlp_ratios", mlp_ratios, NUM_STAGES, above_zero)
        drop_rate, proj_drop_rate, attn_drop_rate, drop_path_rate = read_each(
            "TCFormer",
            partial(as_float, high=1.0),
            drop_rate=drop_rate,
            proj_drop_rate=proj_drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
        )
        rules = merge_rules(keep_ratio, k, num_clusters, part_grids)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.depths = tuple(depths)
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": dim, "reduction": 4 * 2**stage, "module": f"norm{stage + 1}"}
            for stage, dim in enumerate(embed_dims)
        ]
        self.num_features = self.head_hidden_size = embed_dims[-1]

        # On the CPU whatever the default device: a model may be created on "meta".
        drop_path = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        with torch.device(device) if device is not None else contextlib.nullcontext():
            self.patch_embed1 = PatchEmbed(in_chans, embed_dims[0])
            for stage in range(NUM_STAGES):
                if stage:
                    widths = embed_dims[stage - 1], embed_dims[stage]
                    ctm = CTM(*widths, rules[stage - 1], density_noise)
                    self.add_module(f"ctm{stage}", ctm)
                first = sum(depths[:stage])
                make_block = TokenBlock if stage else GridBlock
                blocks = nn.ModuleList(
                    make_block(
                        embed_dims[stage],
                        num_heads[stage],
                        mlp_ratios[stage],
                        sr_ratios[stage],
                        qkv_bias=qkv_bias,
                        proj_drop=proj_drop_rate,
                        attn_drop=attn_drop_rate,
                        drop_path=drop_path[first + block],
                    )
                    for block in range(depths[stage])
                )
                self.add_module(f"block{stage + 1}", blocks)
                self.add_module(f"norm{stage + 1}", LayerNorm(embed_dims[stage], eps=1e-6))
            self.head_drop = nn.Dropout(drop_rate)
            self.head = _linear_head(self.num_features, num_classes)
            self.apply(init_weights)
        if dtype is not None:
            self.to(dtype)

    # ---- images to tokens -------------------------------------------------------------------

    def forward_tokens(self, images: Tensor, *, num_stages: int | None = None) -> list[Tokens]:
        """Run the backbone.

        Args:
            images: (B, in_chans, Hi, Wi) float, normalized; any size, B at least 1.
            num_stages: how many stages to run; all there are when left out.

        Returns:
            The tokens after each stage's norm: (B, N_s, C_s) with their layouts. At 224 px N is
            3136, 784, 196, 49.

        Raises:
            ValueError: the images are not a batch of at least one image of ``in_chans`` channels.
        """
        self._check_images(images)
        num_stages = self._num_stages() if num_stages is None else num_stages
        outputs: list[Tokens] = []
        x, grid_size = self.patch_embed1(images)
        tokens = Tokens(x, grid_layout(x.shape[0], grid_size, x.device))
        plan = plan_token_map(tokens.layout)
        source: KeySource | None = None
        for stage in range(1, num_stages + 1):
            if stage > 1:
                ctm: CTM = getattr(self, f"ctm{stage - 1}")
                tokens, source = ctm(tokens, plan)
                plan = plan_token_map(tokens.layout, dtype=tokens.x.dtype)
            x = self._run_blocks(getattr(self, f"block{stage}"), tokens, plan, source)
            tokens = tokens._replace(x=getattr(self, f"norm{stage}")(x))
            outputs.append(tokens)
        return outputs

    def _run_blocks(
        self, blocks: nn.ModuleList, tokens: Tokens, plan: TokenMap, source: KeySource | None
    ) -> Tensor:
        x = tokens.x
        for block in blocks:
            if source is None and isinstance(block, GridBlock):
                args: tuple[Any, ...] = (x, plan)
            else:
                args = (tokens._replace(x=x), plan, source)
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *args, use_reentrant=False)
            else:
                x = block(*args)
            source = None  # only the first block looks back at the un-merged tokens
        return x

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_chans or 0 in images.shape:
            raise ValueError(
                f"{type(self).__name__} takes images of shape (B, {self.in_chans}, height, width), "
                f"at least one and none of them empty, not {tuple(images.shape)}."
            )

    # ---- tokens to classes ------------------------------------------------------------------

    @shaped
    def forward_features(self, images: Float[Tensor, "b cin hi wi"]) -> Float[Tensor, "b n c"]:
        """Features of the last stage's tokens, (B, N, C)."""
        return self.forward_tokens(images)[-1].x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool tokens and classify: (B, N, C) -> (B, num_classes), or (B, C) before the head.

        The plain mean over tokens, whatever their size: a small token counts as much as a large
        one, and the released weights expect it.
        """
        if self.global_pool == "avg":
            x = x.mean(dim=1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    @shaped
    def forward(self, images: Float[Tensor, "b cin hi wi"]) -> Float[Tensor, "b *classes"]:
        """Classify images: (B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(images))

    # ---- timm's contract --------------------------------------------------------------------

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = True,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps (or tokens) of chosen stages, at strides 4, 8, 16 and 32.

        Args:
            x: images, (B, in_chans, H, W).
            indices: the last n stages if an int, all if None, else the stages (0 to 3) listed, in
                that order.
            norm: accepted for timm's sake; a stage ends with its norm in any case, as the next
                one is built on it.
            stop_early: do not run stages after the last one that is asked for.
            output_fmt: "NCHW" for maps, "NLC" for tokens.
            intermediates_only: return the list alone.

        Returns:
            The final tokens (B, N, C) and the list, or the list alone.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(
                f"output_fmt must be 'NCHW' (maps) or 'NLC' (tokens), not {output_fmt!r}."
            )
        take, last = feature_take_indices(self._num_stages(), indices)
        stages = self.forward_tokens(x, num_stages=last + 1 if stop_early else self._num_stages())
        chosen = [
            tokens_to_map(stages[stage]) if output_fmt == "NCHW" else stages[stage].x
            for stage in take
        ]
        return chosen if intermediates_only else (stages[-1].x, chosen)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what comes after the last stage that is asked for."""
        take, last = feature_take_indices(self._num_stages(), indices)
        pruned = last + 1 < self._num_stages()
        for stage in range(last + 2, NUM_STAGES + 1):
            for name in (f"ctm{stage - 1}", f"block{stage}", f"norm{stage}"):
                if hasattr(self, name):
                    delattr(self, name)
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return list(take)

    def _num_stages(self) -> int:
        count = 0
        while hasattr(self, f"norm{count + 1}"):
            count += 1
        return count

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh head of another width in place; 0 classes for none."""
        if global_pool is not None:
            check_pool(global_pool)
            self.global_pool = global_pool
        weight = next(self.patch_embed1.parameters())
        self.num_classes = num_classes = as_int("num_classes", num_classes, 0)
        self.head = _linear_head(self.num_features, num_classes).to(weight.device, weight.dtype)
        init_weights(self.head)
        self.head.train(self.training)

    def no_weight_decay(self) -> set[str]:
        """No names: the rule "decay what has two or more dimensions" says everything."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups in the order of the network, for layer-wise learning rates."""
        if coarse:
            return {"stem": r"^patch_embed1", "blocks": r"^(?:ctm|block|norm)(\d+)"}
        return {
            "stem": r"^patch_embed1",
            "blocks": [
                (r"^block(\d+)\.(\d+)", None),
                (r"^norm(\d+)", (99998,)),
                (r"^ctm(\d+)", (99998,)),
            ],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable


def _linear_head(num_features: int, num_classes: int) -> nn.Module:
    return nn.Linear(num_features, num_classes) if num_classes > 0 else nn.Identity()

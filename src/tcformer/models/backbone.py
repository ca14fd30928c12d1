"""TCFormer, read downwards: stem, four stages, three merges between them, a linear head."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tcformer.arguments import as_float, as_int, as_list
from tcformer.errors import shown
from tcformer.models.blocks import GridBlock, Source, TokenBlock
from tcformer.models.ctm import CTM
from tcformer.models.layers import LayerNorm, PatchEmbed, init_weights
from tcformer.ops import TokenMap, plan_token_map, tokens_to_map
from tcformer.tokens import Tokens, grid_layout

__all__ = ["TCFormer"]

NUM_STAGES = 4


class TCFormer(nn.Module):
    """The Token Clustering Transformer, obeying timm's model contract.

    Stage 1 works on the grid of 4x4-pixel cells. Before each later stage the tokens are clustered
    by their features and merged (:class:`~tcformer.models.ctm.CTM`), so that detail keeps many
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
        k: neighbours in the density estimate of the clustering, the token itself included.
        num_clusters: tokens that the merges leave, instead of a share; one number or three.
        part_grids: for each of the three merges the grid of parts inside which tokens are
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
        embed_dims: Sequence[int] = (64, 128, 320, 512),
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
        _check_pool(global_pool)
        in_chans = as_int("TCFormer: in_chans", in_chans)
        num_classes = as_int("TCFormer: num_classes", num_classes, 0)
        embed_dims = _per_stage("embed_dims", embed_dims)
        num_heads = _per_stage("num_heads", num_heads)
        depths = _per_stage("depths", depths)
        sr_ratios = _per_stage("sr_ratios", sr_ratios)
        mlp_ratios = _per_stage("mlp_ratios", mlp_ratios, partial(as_float, above=True))
        drop_rate, proj_drop_rate, attn_drop_rate, drop_path_rate = (
            as_float(f"TCFormer: {name}", rate, 0.0, 1.0)
            for name, rate in (
                ("drop_rate", drop_rate),
                ("proj_drop_rate", proj_drop_rate),
                ("attn_drop_rate", attn_drop_rate),
                ("drop_path_rate", drop_path_rate),
            )
        )
        if keep_ratio is not None and num_clusters is not None:
            raise ValueError(
                "TCFormer: keep_ratio and num_clusters both say how many tokens are left; give one."
            )
        ratios = _per_merge("keep_ratio", 0.25 if keep_ratio is None else keep_ratio)
        counts = _per_merge("num_clusters", num_clusters)
        grids = _per_merge("part_grids", part_grids)
        squares = [grid if as_list(grid) else (grid, grid) for grid in grids]
        nest = [] if part_grids is None else squares
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
                    ctm = CTM(
                        embed_dims[stage - 1],
                        embed_dims[stage],
                        ratios[stage - 1],
                        k,
                        density_noise,
                        counts[stage - 1],
                        nest[stage - 1 :],
                    )
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
            images: (B, in_chans, Hi, Wi) float, normalised; any size, B at least 1.
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
        source: Source | None = None
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
        self, blocks: nn.ModuleList, tokens: Tokens, plan: TokenMap, source: Source | None
    ) -> Tensor:
        x = tokens.x
        for block in blocks:
            if source is None and isinstance(block, GridBlock):
                args: tuple[Any, ...] = (x, tokens.layout.grid_size)
            else:
                args = (tokens._replace(x=x), plan, source)
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *args, use_reentrant=False)
            else:
                x = block(*args)
            source = None  # only the first block looks back at the un-merged tokens
        return x

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_chans:
            raise ValueError(
                f"{type(self).__name__} takes images of shape (B, {self.in_chans}, height, width), "
                f"not {tuple(images.shape)}."
            )
        if images.shape[0] == 0:
            raise ValueError(
                f"{type(self).__name__} was given an empty batch; it needs at least one image."
            )
        if images.shape[2] == 0 or images.shape[3] == 0:
            raise ValueError(
                f"{type(self).__name__} was given images without pixels, {tuple(images.shape)}."
            )

    # ---- tokens to classes ------------------------------------------------------------------

    def forward_features(self, images: Tensor) -> Tensor:
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

    def forward(self, images: Tensor) -> Tensor:
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
        return sum(hasattr(self, f"norm{stage}") for stage in range(1, NUM_STAGES + 1))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh head of another width in place; 0 classes for none."""
        if global_pool is not None:
            _check_pool(global_pool)
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


def _check_pool(global_pool: str) -> None:
    if global_pool not in ("avg", ""):
        raise ValueError(f"global_pool must be 'avg' or '' (none), not {global_pool!r}.")


def _per_merge(name: str, value: Any) -> list[Any]:
    """One value for all three merges, or three."""
    several = as_list(value)
    values = [value] * (NUM_STAGES - 1) if several is None else several
    if len(values) != NUM_STAGES - 1:
        raise ValueError(f"TCFormer: {name} needs one value or three, not {values}.")
    return values


def _per_stage(name: str, value: Any, read: Callable[[str, Any], Any] = as_int) -> tuple[Any, ...]:
    """Four numbers, each read by the function."""
    values = as_list(value)
    if values is None or len(values) != NUM_STAGES:
        raise ValueError(f"TCFormer: {name} needs {NUM_STAGES} values, not {shown(value)}.")
    return tuple(read(f"TCFormer: {name}", number) for number in values)


def _linear_head(num_features: int, num_classes: int) -> nn.Module:
    return nn.Linear(num_features, num_classes) if num_classes > 0 else nn.Identity()

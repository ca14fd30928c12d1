"""The named models, registered with timm."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from tcformer.errors import UserError, nearest
from tcformer.models.sizes import SIZES, V1, V2, VARIANTS
from tcformer.models.tcformer import TCFormer
from tcformer.weights.released import RELEASED, pretrained_path
from tcformer.weights.remap import translate
from tcformer.weights.safe_torch import find_weights

__all__ = ["VARIANTS", "create_model"]


def _cfg(url: str = "", **other: Any) -> dict[str, Any]:
    return {
        "url": url,  # only tells timm that there are weights: `_create` gets the file
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 224 / 256,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed1.proj",
        "classifier": "head",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2204.08680",
        "paper_name": "Not All Tokens Are Equal: Human-centric Visual Analysis via Token "
        "Clustering Transformer",
        "origin_url": "https://github.com/zengwang430521/TCFormer",
        **other,
    }


_V2_PAPER = {
    "paper_ids": "arXiv:2407.11321",
    "paper_name": "TCFormer: Visual Recognition via Token Clustering Transformer",
}


default_cfgs = generate_default_cfgs(
    {
        "tcformer_nano.untrained": _cfg(),
        **{
            f"{name}.in1k": _cfg(RELEASED[name].sources[0].address)
            for name in ("tcformer_light", "tcformer", "tcformer_large")
        },
        **{
            f"tcformerv2_{size}.untrained": _cfg(**_V2_PAPER)
            for size in ("nano", "light", "base", "large")
        },
    }
)


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    if pretrained and not _names_a_source(kwargs):
        if variant in V2:
            v1 = V1[V2.index(variant)]
            start = (
                f"; a training may start from those of {v1}, which fit" if v1 in RELEASED else ""
            )
            raise UserError(
                f"there are no released weights for {variant}: those of TCFormerV2 were never "
                f"published{start}."
            )
        # A file on disk, which timm then adapts to in_chans and num_classes as it always does.
        overlay = kwargs.get("pretrained_cfg_overlay") or {}
        kwargs["pretrained_cfg_overlay"] = {**overlay, "file": str(pretrained_path(variant))}
    return build_model_with_cfg(
        TCFormer,
        variant,
        pretrained,
        pretrained_filter_fn=_filter,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **{**SIZES[variant], **kwargs},
    )


def _names_a_source(kwargs: dict[str, Any]) -> bool:
    """Whether the caller (or timm, for hub and local folders) says where the weights are."""
    # timm.create_model passes both on as None, or the first as a tag such as "in1k".
    cfg, overlay = kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay") or {}
    if isinstance(cfg, PretrainedCfg):
        cfg = asdict(cfg)
    chosen = {**(cfg if isinstance(cfg, dict) else {}), **overlay}
    if chosen.get("url") in [entry.sources[0].address for entry in RELEASED.values()]:
        chosen["url"] = ""  # our own entry, handed back
    return any(chosen.get(key) for key in ("source", "state_dict", "file", "url", "hf_hub_id"))


def _filter(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    weights = translate(find_weights(state_dict, "the state dict")[0]).backbone
    missing = [n for n in model.state_dict() if n not in weights and not n.startswith("head.")]
    if missing:  # timm says so in its log alone where the head differs
        raise UserError(
            f"the weights lack {len(missing)} of the parameters of {type(model).__name__}, "
            f"{missing[0]} for one: they are incomplete or of another size"
        )
    return weights


def _register(name: str, summary: str) -> None:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = summary
    globals()[name] = register_model(build)


for _name, _summary in {
    "tcformer_nano": "Our smallest variant (the widths of PVTv2-B0), for demonstrations.",
    "tcformer_light": "TCFormer-Light: 14.2 M parameters, 3.8 GFLOPs at 224 px.",
    "tcformer": "TCFormer: 25.6 M parameters, 5.8 GFLOPs at 224 px.",
    "tcformer_large": "TCFormer-Large: 62.8 M parameters, 12.1 GFLOPs at 224 px.",
    "tcformerv2_nano": "Our smallest variant with Local CTM.",
    "tcformerv2_light": "TCFormerV2-Light (Local CTM): 14.2 M parameters, 2.5 GFLOPs at 224 px.",
    "tcformerv2_base": "TCFormerV2 (Local CTM): 25.6 M parameters, 4.5 GFLOPs at 224 px.",
    "tcformerv2_large": "TCFormerV2-Large (Local CTM): 62.8 M parameters, 10.8 GFLOPs at 224 px.",
}.items():
    _register(_name, _summary)  # numbers by the published accounting


def create_model(name: str = "tcformer", **kwargs: Any) -> nn.Module:
    """Create a model by name; the same as ``timm.create_model``, for these models only.

    Args:
        name: one of :data:`VARIANTS`.
        **kwargs: ``pretrained``, ``num_classes``, ``in_chans``, ``features_only``,
            ``drop_path_rate`` and whatever :class:`~tcformer.models.TCFormer` takes.

    Raises:
        UserError: no model has this name.
    """
    if name not in VARIANTS:
        guess = nearest(name, VARIANTS)
        hint = f"did you mean {guess}?" if guess else f"choose one of {', '.join(VARIANTS)}."
        raise UserError(f"there is no model {name!r}; {hint}")
    return timm.create_model(name, **kwargs)

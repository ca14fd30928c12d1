"""The named models, registered with timm.

This module imports neither timm nor torch, so that `tcformer` can import it first thing: a model is
registered by name, and the network's code is imported when one is built.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tcformer.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["create_model"]

_SUMMARIES = {
    "tcformer_nano": "Our smallest variant (the widths of PVTv2-B0), for demonstrations.",
    "tcformer_light": "TCFormer-Light: 14.2 M parameters, 3.8 GFLOPs at 224 px.",
    "tcformer": "TCFormer: 25.6 M parameters, 5.8 GFLOPs at 224 px.",
    "tcformer_large": "TCFormer-Large: 62.8 M parameters, 12.1 GFLOPs at 224 px.",
    "tcformerv2_nano": "Our smallest variant with Local CTM.",
    "tcformerv2_light": "TCFormerV2-Light (Local CTM): 14.2 M parameters, 2.5 GFLOPs at 224 px.",
    "tcformerv2_base": "TCFormerV2 (Local CTM): 25.6 M parameters, 4.5 GFLOPs at 224 px.",
    "tcformerv2_large": "TCFormerV2-Large (Local CTM): 62.8 M parameters, 10.8 GFLOPs at 224 px.",
}
"""Numbers by the published accounting."""

_V2_PAPER = {
    "paper_ids": "arXiv:2407.11321",
    "paper_name": "TCFormer: Visual Recognition via Token Clustering Transformer",
}


def _cfg(name: str, address: str) -> dict[str, Any]:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return {
        "url": address,  # only tells timm that there are weights: `_create` gets the file
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
        **(_V2_PAPER if name.startswith("tcformerv2_") else {}),
    }


def register() -> None:
    """Enter the models into timm's registry, unless they are there.

    It waits for no module that waits for timm: other threads may import at the same time.
    """
    import timm  # noqa: F401 - another thread may be in its middle, which a submodule does not ask
    from timm.models import generate_default_cfgs, is_model, register_model

    from tcformer.weights.released import RELEASED

    if is_model("tcformer"):
        return
    cfgs = {}
    for name in _SUMMARIES:
        released = name in RELEASED
        address = RELEASED[name].sources[0].address if released else ""
        cfgs[f"{name}.{'in1k' if released else 'untrained'}"] = _cfg(name, address)
    globals()["default_cfgs"] = generate_default_cfgs(cfgs)  # where timm looks
    for name in _SUMMARIES:
        register_model(globals()[name])


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    from timm.models import build_model_with_cfg

    from tcformer.models.sizes import SIZES, V1, V2
    from tcformer.models.tcformer import TCFormer
    from tcformer.weights.released import RELEASED, pretrained_path

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
    from timm.models import PretrainedCfg

    from tcformer.weights.released import RELEASED

    # timm.create_model passes both on as None, or the first as a tag such as "in1k".
    cfg, overlay = kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay") or {}
    if isinstance(cfg, PretrainedCfg):
        cfg = asdict(cfg)
    chosen = {**(cfg if isinstance(cfg, dict) else {}), **overlay}
    if chosen.get("url") in [entry.sources[0].address for entry in RELEASED.values()]:
        chosen["url"] = ""  # our own entry, handed back
    return any(chosen.get(key) for key in ("source", "state_dict", "file", "url", "hf_hub_id"))


def _filter(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    from tcformer.weights.remap import translate
    from tcformer.weights.safe_torch import find_weights

    weights = translate(find_weights(state_dict, "the state dict")[0]).backbone
    missing = [n for n in model.state_dict() if n not in weights and not n.startswith("head.")]
    if missing:  # timm says so in its log alone where the head differs
        raise UserError(
            f"the weights lack {len(missing)} of the parameters of {type(model).__name__}, "
            f"{missing[0]} for one: they are incomplete or of another size"
        )
    return weights


def _entry(name: str, summary: str) -> Any:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = summary
    return build


globals().update({name: _entry(name, summary) for name, summary in _SUMMARIES.items()})


def create_model(name: str = "tcformer", **kwargs: Any) -> nn.Module:
    """Create a model by name; the same as ``timm.create_model``, for these models only.

    Args:
        name: one of :data:`~tcformer.models.VARIANTS`.
        **kwargs: ``pretrained``, ``num_classes``, ``in_chans``, ``features_only``,
            ``drop_path_rate`` and whatever :class:`~tcformer.models.TCFormer` takes.

    Raises:
        UserError: no model has this name.
    """
    import timm

    if name not in _SUMMARIES:
        guess = nearest(name, _SUMMARIES)
        hint = f"did you mean {guess}?" if guess else f"choose one of {', '.join(_SUMMARIES)}."
        raise UserError(f"there is no model {name!r}; {hint}")
    return timm.create_model(name, **kwargs)

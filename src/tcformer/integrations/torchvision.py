"""torchvision's detectors over a TCFormer backbone, with MTA in the place of the feature pyramid.

The models are torchvision's own classes: they take a list of images (C, H, W) in 0..1 of any sizes
(and, in training, a list of targets), resize and normalise them, and return a dict of losses or a
list of detections.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from tcformer.errors import nearest
from tcformer.models import MTA, TCFormer
from tcformer.zoo import create_model

__all__ = ["TokenPyramid", "anchors", "keypoint_rcnn", "mask_rcnn", "pyramid", "retinanet"]

Backbone = str | TCFormer


class TokenPyramid(nn.Module):
    """Backbone and neck as one module, in the form that torchvision's detectors take.

    Args:
        body: the backbone; its classifier is not used, so create it with ``num_classes=0``.
        neck: the aggregation of its tokens.

    Attributes:
        out_channels: channels of every map; torchvision reads it.
        strides: pixels of the image per pixel of each map.
        names: of the maps, "0" for the finest, "1", ...
        token_names: of the maps that are made of tokens; the others are extra, coarser levels.

    Raises:
        ValueError: backbone and neck do not fit each other, or the backbone has a classifier.
    """

    def __init__(self, body: TCFormer, neck: MTA):
        super().__init__()
        channels = tuple(stage["num_chs"] for stage in body.feature_info)
        if channels != neck.in_channels:
            raise ValueError(
                f"TokenPyramid: the backbone's stages have {list(channels)} channels, but the neck "
                f"takes {list(neck.in_channels)}."
            )
        if body.num_classes:
            raise ValueError(
                f"TokenPyramid: the backbone has a classifier of {body.num_classes} classes that "
                "would never be trained; create it with num_classes=0."
            )
        self.body = body
        self.neck = neck
        self.out_channels = neck.out_channels
        finest = body.feature_info[neck.start_level]["reduction"]
        self.strides = tuple(finest * 2**level for level in range(neck.num_outs))
        self.names = tuple(str(level) for level in range(neck.num_outs))
        self.token_names = self.names[: neck.end_level - neck.start_level + 1]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Maps (B, out_channels, H, W) by name, finest first, of images (B, C, Hi, Wi)."""
        return OrderedDict(
            zip(self.names, self.neck(self.body.forward_tokens(images)), strict=True)
        )


def pyramid(
    backbone: Backbone = "tcformer_light",
    *,
    pretrained: bool = False,
    drop_path_rate: float = 0.0,
    out_channels: int = 256,
    num_outs: int = 5,
    num_heads: int = 4,
    reduction: str = "cluster",
    **neck: Any,
) -> TokenPyramid:
    """Put a backbone and a new MTA together.

    Args:
        backbone: a model's name, or a backbone without classifier.
        pretrained: load the published ImageNet weights of the named backbone.
        drop_path_rate: stochastic depth of the named backbone.
        out_channels: channels of every map.
        num_outs: number of maps.
        num_heads: attention heads in the neck.
        reduction: how the neck's keys are made fewer.
        **neck: further settings of :class:`~tcformer.models.MTA`, such as ``start_level``.

    Raises:
        ValueError: settings that do not belong together.
    """
    if isinstance(backbone, str):
        body = create_model(
            backbone, pretrained=pretrained, num_classes=0, drop_path_rate=drop_path_rate
        )
    elif pretrained or drop_path_rate:
        raise ValueError(
            "pyramid: pretrained and drop_path_rate belong to a backbone given by name; set them "
            "where this one was created."
        )
    else:
        body = backbone
    if not isinstance(body, TCFormer):
        raise ValueError(f"pyramid: {type(body).__name__} has no tokens to aggregate.")
    return TokenPyramid(
        body,
        MTA(
            [stage["num_chs"] for stage in body.feature_info],
            out_channels,
            num_outs,
            num_heads=num_heads,
            reduction=reduction,
            **neck,
        ),
    )


def anchors(features: TokenPyramid, scale: float = 8.0, per_octave: int = 1) -> AnchorGenerator:
    """Anchors that grow with the levels of a pyramid, in the aspect ratios 1:2, 1:1 and 2:1.

    Args:
        features: the pyramid.
        scale: side of a level's (smallest) anchor over its stride.
        per_octave: number of sizes a level has, up to twice the smallest.
    """
    sizes = tuple(
        tuple(int(stride * scale * 2 ** (step / per_octave)) for step in range(per_octave))
        for stride in features.strides
    )
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))


def mask_rcnn(
    backbone: Backbone | TokenPyramid = "tcformer_light",
    num_classes: int = 91,
    *,
    pretrained: bool = False,
    anchor_scale: float = 8.0,
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN: boxes and masks.

    Args:
        backbone: a model's name, a backbone, or a :func:`pyramid`. The first two get the pyramid
            of the recipe: strides 4 to 32 from tokens and a subsampled fifth map.
        num_classes: with the background, class 0 (91 for COCO's own numbers).
        pretrained: load the published ImageNet weights of the named backbone.
        anchor_scale: side of a level's anchor over its stride (32 to 512 pixels over five levels).
        **options: of :class:`torchvision.models.detection.MaskRCNN`: ``min_size``, ``max_size``,
            ``box_score_thresh`` and so on.

    Raises:
        ValueError: settings that do not belong together.
    """
    return _region_detector(MaskRCNN, backbone, num_classes, pretrained, anchor_scale, options)


def keypoint_rcnn(
    backbone: Backbone | TokenPyramid = "tcformer_light",
    num_classes: int = 2,
    num_keypoints: int = 17,
    *,
    pretrained: bool = False,
    anchor_scale: float = 8.0,
    **options: Any,
) -> KeypointRCNN:
    """Keypoint R-CNN: boxes and the keypoints in them.

    Args:
        backbone: as for :func:`mask_rcnn`.
        num_classes: with the background.
        num_keypoints: of every object (17 for COCO's persons).
        pretrained: as for :func:`mask_rcnn`.
        anchor_scale: as for :func:`mask_rcnn`.
        **options: of :class:`torchvision.models.detection.KeypointRCNN`.

    Raises:
        ValueError: settings that do not belong together.
    """
    options = {**options, "num_keypoints": num_keypoints}
    return _region_detector(KeypointRCNN, backbone, num_classes, pretrained, anchor_scale, options)


def retinanet(
    backbone: Backbone | TokenPyramid = "tcformer_light",
    num_classes: int = 91,
    *,
    pretrained: bool = False,
    anchor_scale: float = 4.0,
    **options: Any,
) -> RetinaNet:
    """RetinaNet: boxes in one pass.

    Args:
        backbone: a model's name, a backbone, or a :func:`pyramid`. The first two get the pyramid
            of the recipe: strides 8 to 32 from tokens and two convolved maps.
        num_classes: with the background, class 0 (91 for COCO's own numbers).
        pretrained: load the published ImageNet weights of the named backbone.
        anchor_scale: side of a level's smallest anchor over its stride; there are three sizes.
        **options: of :class:`torchvision.models.detection.RetinaNet`: ``min_size``,
            ``score_thresh`` and so on.

    Raises:
        ValueError: settings that do not belong together.
    """
    _check_options(RetinaNet, options)
    neck = {"start_level": 1, "num_outs": 5, "add_extra_convs": "on_input"}
    features = _features(backbone, pretrained, neck)
    generator = options.setdefault("anchor_generator", anchors(features, anchor_scale, 3))
    _check_levels(features, "anchor_generator", generator)
    return RetinaNet(features, num_classes, **options)


def _region_detector(
    detector: type[nn.Module],
    backbone: Backbone | TokenPyramid,
    num_classes: int,
    pretrained: bool,
    anchor_scale: float,
    options: dict[str, Any],
) -> Any:
    _check_options(detector, options)
    features = _features(backbone, pretrained, {})
    generator = options.setdefault("rpn_anchor_generator", anchors(features, anchor_scale))
    _check_levels(features, "rpn_anchor_generator", generator)
    names = list(features.token_names)
    second = "mask_roi_pool" if detector is MaskRCNN else "keypoint_roi_pool"
    for pool, size in (("box_roi_pool", 7), (second, 14)):
        _fix_scales(options.setdefault(pool, MultiScaleRoIAlign(names, size, 2)), features)
    return detector(features, num_classes, **options)


def _fix_scales(pool: nn.Module, features: TokenPyramid) -> None:
    """Tell a pool the scales of its maps.

    Otherwise it guesses them, once for ever, from the first batch's height without the padding:
    after one picture 66 pixels high, say, all of them would be doubled.
    """
    stride = dict(zip(features.names, features.strides, strict=True))
    if not isinstance(pool, MultiScaleRoIAlign) or pool.scales is not None:
        return
    if set(pool.featmap_names) <= set(stride):
        strides = [stride[name] for name in pool.featmap_names]
        pool.scales = [1 / side for side in strides]
        finest, coarsest = (int(math.log2(side)) for side in (strides[0], strides[-1]))
        scale, level = pool.canonical_scale, pool.canonical_level
        pool.map_levels = LevelMapper(finest, coarsest, scale, level)


def _features(
    backbone: Backbone | TokenPyramid, pretrained: bool, neck: dict[str, Any]
) -> TokenPyramid:
    if not isinstance(backbone, TokenPyramid):
        return pyramid(backbone, pretrained=pretrained, **neck)
    if pretrained:
        raise ValueError(
            "pretrained belongs to a backbone given by name; give it to `pyramid` instead."
        )
    return backbone


def _check_options(detector: type[nn.Module], options: dict[str, Any]) -> None:
    """Refuse what torchvision would swallow: its detectors ignore options they do not know."""
    known = {
        name
        for owner in (detector, GeneralizedRCNNTransform)
        for name, parameter in inspect.signature(owner).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    } - {"backbone", "num_classes"}
    for name in options:
        if name not in known:
            guess = nearest(name, known)
            hint = f"; did you mean {guess}?" if guess else "."
            raise ValueError(f"{detector.__name__} has no option {name!r}{hint}")


def _check_levels(features: TokenPyramid, name: str, generator: Any) -> None:
    sizes = getattr(generator, "sizes", None)
    if sizes is not None and len(sizes) != len(features.names):
        raise ValueError(
            f"{name} has sizes for {len(sizes)} levels, but the pyramid has "
            f"{len(features.names)}; give one tuple of sizes for each."
        )

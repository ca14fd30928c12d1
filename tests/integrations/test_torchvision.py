"""torchvision's detectors over MTA: one training step, inference, levels, anchors, errors."""

import copy

import pytest
import torch
from one_step import train_one_step
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads
from torchvision.ops import MultiScaleRoIAlign

import tcformer
from tcformer.integrations.torchvision import (
    TokenPyramid,
    anchors,
    keypoint_rcnn,
    mask_rcnn,
    pyramid,
    retinanet,
)
from tcformer.models import MTA

SIZES = {"min_size": 64, "max_size": 96}
FEW = {"rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 10, "box_detections_per_img": 4}


def small(**options):
    return pyramid("tcformer_nano", out_channels=32, num_heads=2, **options)


def pictures():
    """Two images of different sizes with a bright and a dark box each."""
    torch.manual_seed(0)
    images, targets = [], []
    for height, width in ((96, 128), (120, 96)):
        image = 0.5 + 0.1 * torch.rand(3, height, width)
        boxes = torch.tensor([[8.0, 12.0, 40.0, 60.0], [50.0, 30.0, 90.0, 80.0]])
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        points = torch.ones(2, 3, 3)
        for number, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
            image[:, top:bottom, left:right] = number
            masks[number, top:bottom, left:right] = 1
            points[number, :, :2] = torch.tensor(
                [[left, top], [right - 1, top], [(left + right) / 2, bottom - 1]]
            )
        images.append(image)
        labels = torch.tensor([1, 2])
        targets.append({"boxes": boxes, "labels": labels, "masks": masks, "keypoints": points})
    return images, targets


def build(name, features):
    if name == "mask":
        return mask_rcnn(features, 3, **FEW, **SIZES)
    if name == "keypoint":
        head = KeypointRCNNHeads(features.out_channels, (512,))
        return keypoint_rcnn(features, 3, 3, keypoint_head=head, **FEW, **SIZES)
    return retinanet(features, 3, **SIZES)


NECKS = {
    "mask": {},
    "keypoint": {"reduction": "pool"},
    "retina": {"start_level": 1, "add_extra_convs": "on_input", "reduction": "conv"},
}


@pytest.mark.parametrize("name", NECKS)
def test_one_step_reaches_every_parameter(name):
    images, targets = pictures()
    torch.manual_seed(0)
    model = build(name, small(**NECKS[name])).train()
    train_one_step(model, lambda: sum(model(images, targets).values()))


@pytest.mark.parametrize("name", NECKS)
@torch.no_grad()
def test_inference(name):
    images, _ = pictures()
    torch.manual_seed(0)
    model = build(name, small(**NECKS[name])).eval()
    head = model if name == "retina" else model.roi_heads
    head.score_thresh = 0.0  # untrained: whatever it finds
    found = model(images)
    assert len(found) == 2
    for image, result in zip(images, found, strict=True):
        height, width = image.shape[1:]
        count = len(result["boxes"])
        assert count > 0
        assert result["boxes"].shape == (count, 4)
        assert result["boxes"][:, 2].max() <= width
        assert result["boxes"][:, 3].max() <= height
        assert set(result["labels"].tolist()) <= {0, 1, 2}
        assert result["scores"].shape == (count,)
        if name == "mask":
            assert result["masks"].shape == (count, 1, height, width)
        if name == "keypoint":
            assert result["keypoints"].shape == (count, 3, 3)
            assert result["keypoints_scores"].shape == (count, 3)


@pytest.mark.parametrize("name", [*NECKS, "own pool"])
@torch.no_grad()
def test_what_was_seen_before_changes_nothing(name):
    """Nor what was seen first, though a pool guesses its scales from a height without padding."""
    torch.manual_seed(0)
    if name == "own pool":
        pool = MultiScaleRoIAlign(["1", "2"], 7, 2)
        model = mask_rcnn(small(), 3, **FEW, **SIZES, box_roi_pool=pool).eval()
    else:
        model = build(name, small(**NECKS[name])).eval()
    (model if name == "retina" else model.roi_heads).score_thresh = 0.0
    picture = torch.rand(3, 70, 90)
    fresh = copy.deepcopy(model)
    model([torch.rand(3, 66, 64)])
    found, want = model([picture])[0], fresh([picture])[0]
    assert len(want["boxes"])
    assert set(found) == set(want)
    for key, value in want.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize(("start", "outs"), [(0, 1), (0, 7), (2, 2)])
def test_anchors_are_right_for_any_number_of_levels(start, outs):
    features = small(num_outs=outs, start_level=start)
    assert features.strides == tuple(4 * 2 ** (start + level) for level in range(outs))
    model = mask_rcnn(features, 2, **FEW, **SIZES)
    generator = model.rpn.anchor_generator
    assert generator.sizes == tuple((8 * stride,) for stride in features.strides)
    assert list(model.roi_heads.box_roi_pool.featmap_names) == list(features.names[: 4 - start])
    with torch.no_grad():
        maps = features(torch.randn(1, 3, 128, 128))
        found = model.eval()([torch.rand(3, 100, 120)])
    assert [tuple(m.shape[2:]) for m in maps.values()] == [
        (-(-128 // stride),) * 2 for stride in features.strides
    ]
    assert set(found[0]) == {"boxes", "labels", "scores", "masks"}


def test_the_defaults_are_those_of_the_recipes():
    features = retinanet("tcformer_nano", 5).backbone
    assert features.strides == (8, 16, 32, 64, 128)
    assert features.neck.add_extra_convs == "on_input"
    assert anchors(features, 4, 3).sizes[0] == (32, 40, 50)
    features = mask_rcnn("tcformer_nano", 5).backbone
    assert features.strides == (4, 8, 16, 32, 64)
    assert anchors(features).sizes == ((32,), (64,), (128,), (256,), (512,))
    # torchvision's own defaults fit as well: five levels, regions from "0" to "3".
    plain = MaskRCNN(small(), 3, **SIZES).eval()
    with torch.no_grad():
        assert len(plain([torch.rand(3, 96, 96)])) == 1


def test_a_backbone_of_ones_own():
    body = tcformer.create_model("tcformer_nano", num_classes=0, drop_path_rate=0.2)
    assert pyramid(body).body is body
    own = MTA((32, 64, 160, 256), 16, 5)
    assert mask_rcnn(TokenPyramid(body, own), 3).backbone.neck is own


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pyramid("tcformer_nan0"), "there is no model 'tcformer_nan0'; did you mean"),
        (lambda: pyramid(torch.nn.Identity()), "Identity has no tokens to aggregate"),
        (lambda: pyramid(tcformer.create_model("tcformer_nano")), "classifier of 1000 classes"),
        (
            lambda: pyramid(tcformer.create_model("tcformer_nano", num_classes=0), pretrained=True),
            "belong to a backbone given by name",
        ),
        (lambda: mask_rcnn(small(), 2, pretrained=True), "give it to `pyramid` instead"),
        (
            lambda: TokenPyramid(tcformer.create_model("tcformer_nano", num_classes=0), MTA()),
            r"the backbone's stages have \[32, 64, 160, 256\] channels, but the neck takes",
        ),
        (
            lambda: mask_rcnn(small(), 2, rpn_anchor_generator=AnchorGenerator(((8,), (16,)))),
            "has sizes for 2 levels, but the pyramid has 5",
        ),
        (
            lambda: mask_rcnn(small(), 2, min_sizes=64),
            "no option 'min_sizes'; did you mean min_size",
        ),
        (lambda: keypoint_rcnn(small(), keypoint_layers=(8,)), "no option 'keypoint_layers'"),
        (lambda: retinanet(small(), 2, score_tresh=0.1), "did you mean score_thresh"),
    ],
)
def test_what_does_not_fit(call, words):
    with pytest.raises(ValueError, match=words):
        call()

#!/bin/sh
# torchvision v2 turns KeyPoints by another rule than it flips them, and than it turns the pixels.
#
# Versions: torchvision 0.29.2, torch 2.15.0, CPU.
# Behaviour 1: horizontal_flip takes x to W - 1 - x (a keypoint is a pixel's number); rotate and affine
#   take it to W - x at 180 degrees (a keypoint is a place between pixels). Turned by 180 degrees the
#   keypoint stands one pixel right of and below its pixel; flipped both ways it stands on it. Boxes
#   agree both ways.
# Behaviour 2: SanitizeBoundingBoxes drops a box with its label and mask, and leaves the KeyPoints of
#   that object, so that row i of the keypoints no longer belongs to row i of the boxes.
# Guess: half a turn is two flips; what belongs to an object goes with it.
# Seen: the pixel (2, 1) of an 8 x 5 picture goes to (5, 3) either way; its keypoint to (5, 3) by
#   flips and to (6, 4) by rotate(180). 1 box, 1 label and 2 sets of keypoints after sanitizing.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
uv venv -q --python 3.11 "$folder/env"
uv pip install -q --python "$folder/env" torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/env/bin/python" -W ignore - <<'PY'
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

SIZE = {"canvas_size": (5, 8)}
image = tv_tensors.Image(torch.zeros(1, 5, 8))
image[0, 1, 2] = 1
point = tv_tensors.KeyPoints(torch.tensor([[2.0, 1.0]]), **SIZE)
box = tv_tensors.BoundingBoxes(torch.tensor([[2.0, 1.0, 3.0, 2.0]]), format="XYXY", **SIZE)


def two_flips(x):
    return F.vertical_flip(F.horizontal_flip(x))


def half_turn(x):
    return F.rotate(x, 180)


seen = []
for turn in (two_flips, half_turn):
    pixel = turn(image)[0].nonzero().flip(-1).tolist()[0]
    seen.append((pixel, turn(point).tolist()[0], turn(box).tolist()[0]))
    print(f"{turn.__name__}: pixel {seen[-1][0]}, keypoint {seen[-1][1]}, box {seen[-1][2]}")

sample = {
    "boxes": tv_tensors.BoundingBoxes([[0, 0, 4, 4], [2, 2, 2, 2]], format="XYXY", **SIZE),
    "labels": torch.tensor([1, 2]),
    "masks": tv_tensors.Mask(torch.ones(2, 5, 8)),
    "keypoints": tv_tensors.KeyPoints(torch.rand(2, 3, 2), **SIZE),
}
left = {name: len(value) for name, value in v2.SanitizeBoundingBoxes()(sample).items()}
print("rows after SanitizeBoundingBoxes:", left)
wanted = [([5, 3], [5.0, 3.0], [5.0, 3.0, 6.0, 4.0]), ([5, 3], [6.0, 4.0], [5.0, 3.0, 6.0, 4.0])]
rows = {"boxes": 1, "labels": 1, "masks": 1, "keypoints": 2}
raise SystemExit(not (seen == wanted and left == rows))
PY

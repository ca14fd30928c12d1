#!/bin/sh
# torchvision's detectors learn the scales of their pyramid from the first picture they ever see.
#
# Versions: torchvision 0.29.2, torch 2.15.0, CPU.
# Behaviour: MultiScaleRoIAlign guesses the scale of each map as map height / picture height, rounded
#   to a power of two, at its first call, and keeps it for the module's life. The map is that of the
#   padded batch, the height is not padded: a first picture 66 pixels high is padded to 96, whose map
#   of 24 rows reads as stride 2 instead of 4 (24 / 66 is nearer to 1/2). Every region of every later
#   picture is then cut from the wrong place. state_dict does not hold the scales, so weights that
#   are saved and loaded give other boxes than the model that saved them.
# Guess: an evaluated model is a function of its weights and the picture.
# Seen: scales (0.25, 0.125, 0.0625, 0.03125) become (0.5, 0.25, 0.125, 0.0625) after one picture of
#   66 x 64; the boxes of another picture change. Way out: set `scales` and `map_levels` on the pools.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
uv venv -q --python 3.11 "$folder/env"
uv pip install -q --python "$folder/env" torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/env/bin/python" -W ignore - <<'PY'
import copy
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

torch.manual_seed(0)
model = fasterrcnn_resnet50_fpn(
    weights=None, weights_backbone=None, min_size=64, max_size=96, box_score_thresh=0.0
).eval()
other = copy.deepcopy(model)
picture = torch.rand(3, 70, 90)
with torch.no_grad():
    model([torch.rand(3, 66, 64)])  # all that differs between the two
    after, alone = model([picture])[0]["boxes"], other([picture])[0]["boxes"]
scales = [net.roi_heads.box_roi_pool.scales for net in (other, model)]
print("scales alone:", scales[0])
print("scales after a picture of 66 x 64:", scales[1])
same = after.shape == alone.shape and torch.equal(after, alone)
print("same boxes:", same, alone[0].tolist(), after[0].tolist())
kept = any("scale" in key for key in model.state_dict())
print("state_dict holds the scales:", kept)
wanted = [0.25, 0.125, 0.0625, 0.03125]
raise SystemExit(not (scales == [wanted, [2 * s for s in wanted]] and not same and not kept))
PY

#!/bin/sh
# Two valid COCO files on which the evaluators of the field give other figures than the truth's.
#
# Versions: pycocotools 2.0.11, faster-coco-eval 1.7.2, xtcocotools 1.14.3 (MMPose's), numpy 1.26.4.
# Behaviour 1: an annotation whose id is 0 reads as "not matched" in pycocotools and in the port that
#   is meant to replace it, for boxes and for keypoints. xtcocotools treats it as any other.
# Behaviour 2: xtcocotools leaves out results whose keypoints' third numbers are all 0 or below, also
#   in its plain "keypoints" evaluation; pycocotools ignores the third number, as COCO says.
# Guess: ids are names, and the three agree where the protocol is COCO's.
# Seen (AP of two people who are predicted exactly): ids 1, 2: 1.0 everywhere; ids 0, 1: 0.252 in
#   pycocotools and faster-coco-eval, 1.0 in xtcocotools; third numbers 0: 1.0, 1.0, 0.0.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
uv venv -q --python 3.11 "$folder/env"
uv pip install -q --python "$folder/env" numpy==1.26.4 pycocotools==2.0.11 faster-coco-eval==1.7.2 \
    xtcocotools==1.14.3
"$folder/env/bin/python" -W ignore - <<'PY'
import contextlib
import io

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import xtcocotools.coco
import xtcocotools.cocoeval

SIGMAS = [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
SIGMAS = np.array(SIGMAS) / 1000
TOOLS = {
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval, ()),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster, ()),
    "xtcocotools": (xtcocotools.coco.COCO, xtcocotools.cocoeval.COCOeval, (SIGMAS,)),
}


def average_precision(tool, kind, first_id=1, third=1):
    """AP of two people 200 pixels apart who are predicted where they are."""
    dataset, evaluation, more = TOOLS[tool]
    truth, found = [], []
    random = np.random.RandomState(0)
    for number in range(2):
        corner = 20 + 200 * number
        points = np.full((17, 3), 2.0)
        points[:, :2] = random.uniform(corner, corner + 130, (17, 2))
        here = {"image_id": 1, "category_id": 1, "bbox": [corner, corner, 130, 130]}
        truth.append({**here, "id": first_id + number, "area": 130**2, "iscrowd": 0,
                      "num_keypoints": 17, "keypoints": points.ravel().tolist()})
        points[:, 2] = third
        entry = {**here, "score": 0.9 - 0.1 * number, "keypoints": points.ravel().tolist()}
        del entry["keypoints" if kind == "bbox" else "bbox"]
        found.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        data = dataset()
        data.dataset = {"info": {}, "images": [{"id": 1, "width": 400, "height": 400}],
                        "annotations": truth, "categories": [{"id": 1, "name": "person"}]}
        data.createIndex()
        run = evaluation(data, data.loadRes(found), kind, *more)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return round(float(run.stats[0]), 3)


WANTED = {
    "pycocotools": [1.0, 0.252, 1.0, 0.252, 1.0],
    "faster-coco-eval": [1.0, 0.252, 1.0, 0.252, 1.0],
    "xtcocotools": [1.0, 1.0, 1.0, 1.0, 0.0],
}
seen = {}
for tool in TOOLS:
    seen[tool] = [
        average_precision(tool, "bbox"),
        average_precision(tool, "bbox", first_id=0),
        average_precision(tool, "keypoints"),
        average_precision(tool, "keypoints", first_id=0),
        average_precision(tool, "keypoints", third=0),
    ]
    print(f"{tool:<17} boxes, ids from 1: {seen[tool][0]}, from 0: {seen[tool][1]}; "
          f"keypoints, ids from 1: {seen[tool][2]}, from 0: {seen[tool][3]}; "
          f"third numbers 0: {seen[tool][4]}")
raise SystemExit(seen != WANTED)
PY

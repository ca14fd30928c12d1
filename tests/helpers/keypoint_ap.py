"""Average precision of keypoints from its definition, slowly: what pycocotools is compared with."""

from __future__ import annotations

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RANGES = {"": (0, 1e10), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def similarity(truth, found, sigmas):
    """OKS of one prediction (K, 3) with one annotation."""
    points = np.array(truth["points"])
    seen = points[:, 2] > 0
    spread = (2 * sigmas) ** 2 * (truth["area"] + np.spacing(1)) * 2
    if seen.any():
        squared = ((found[:, :2] - points[:, :2]) ** 2).sum(1)
        return np.exp(-squared / spread)[seen].mean()
    x, y, w, h = truth["bbox"]
    low, high = np.array([x - w, y - h]), np.array([x + 2 * w, y + 2 * h])
    away = np.maximum(0, low - found[:, :2]) + np.maximum(0, found[:, :2] - high)
    return np.exp(-(away**2).sum(1) / spread).mean()


def statistics(truths, found, sigmas):
    """The ten numbers.

    truths: image -> list of dict(points, area, bbox, crowd); found: image -> list of
    dict(points, score, area), the points of this part alone, the area that of the body.
    """
    numbers = {}
    for name, (least, most) in RANGES.items():
        precision, recall = [], []
        for threshold in THRESHOLDS:
            rows, total = [], 0
            for image, notes in truths.items():
                ignored = [
                    t["crowd"] or not (np.array(t["points"])[:, 2] > 0).any()
                    or not least <= t["area"] <= most
                    for t in notes
                ]  # fmt: skip
                total += ignored.count(False)
                people = sorted(found.get(image, []), key=lambda p: -p["score"])[:20]
                order = sorted(range(len(notes)), key=lambda i: ignored[i])
                taken = set()
                for person in people:
                    best, match = min(threshold, 1 - 1e-10), None
                    for i in order:
                        if i in taken and not notes[i]["crowd"]:
                            continue
                        if match is not None and not ignored[match] and ignored[i]:
                            break
                        value = similarity(notes[i], person["points"], sigmas)
                        if value >= best:
                            best, match = value, i
                    out = not least <= person["area"] <= most
                    if match is None:
                        rows.append((person["score"], False, out))
                    else:
                        taken.add(match)
                        rows.append((person["score"], True, ignored[match]))
            precision.append(_average_precision(rows, total))
            recall.append(_recall(rows, total))
        numbers |= {f"AP{name}": np.mean(precision), f"AR{name}": np.mean(recall)}
        if not name:
            numbers |= {"AP50": precision[0], "AP75": precision[5]}
            numbers |= {"AR50": recall[0], "AR75": recall[5]}
    return numbers


def _recall(rows, total):
    if not total:
        return -1.0
    return sum(hit for _, hit, ignored in rows if not ignored) / total


def _average_precision(rows, total):
    if not total:
        return -1.0
    kept = [hit for _, hit, ignored in sorted(rows, key=lambda r: -r[0]) if not ignored]
    hits = np.cumsum(kept)
    precision = hits / np.arange(1, len(kept) + 1) if kept else np.zeros(0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / total, np.linspace(0, 1, 101), side="left")
    return np.mean([envelope[p] if p < len(kept) else 0.0 for p in places])

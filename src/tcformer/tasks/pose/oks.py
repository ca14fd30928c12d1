"""What stands between a network's keypoints and a list of results: person scores and OKS-NMS."""

from __future__ import annotations

import numpy as np


def person_score(box_score: float, scores: np.ndarray, threshold: float = 0.2) -> float:
    """The score of a person: that of the box, times the mean of the confident keypoints'.

    Args:
        box_score: of the detector.
        scores: (K,) of the keypoints.
        threshold: keypoints above it are confident.

    Returns:
        0 if no keypoint is confident: a network with low peaks loses all its people by this rule.
    """
    confident = scores[scores > threshold]
    return float(box_score * confident.mean()) if len(confident) else 0.0


def object_keypoint_similarity(
    one: np.ndarray, others: np.ndarray, area: float, areas: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """How alike one set of keypoints is to each of some others, 0 to 1; all keypoints count.

    Args:
        one: (K, 2).
        others: (N, K, 2).
        area: of the first one's padded box, in square pixels.
        areas: (N,) of the others'.
        sigmas: (K,).

    Returns:
        (N,) float64: the mean over keypoints of exp(-d^2 / (2 (2 sigma)^2 a)), a the mean area.
    """
    squared = ((others - one) ** 2).sum(-1)
    mean_area = ((area + areas) / 2)[:, None]
    exponent = squared / (2 * sigmas) ** 2 / (mean_area + np.spacing(1)) / 2
    return np.exp(-exponent).mean(-1)


def oks_nms(
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    threshold: float = 0.9,
) -> list[int]:
    """Drop people who are another one over again.

    Args:
        keypoints: (N, K, 2) of one image.
        scores: (N,) person scores; of equal ones the last counts as better, as published.
        areas: (N,) of the padded boxes, in square pixels.
        sigmas: (K,).
        threshold: who is more alike than this to a better one is dropped.

    Returns:
        The positions that are kept, best first.
    """
    left = np.argsort(scores, kind="stable")[::-1]
    kept = []
    while len(left):
        best, rest = left[0], left[1:]
        kept.append(int(best))
        alike = object_keypoint_similarity(
            keypoints[best], keypoints[rest], float(areas[best]), areas[rest], sigmas
        )
        left = rest[alike <= threshold]
    return kept

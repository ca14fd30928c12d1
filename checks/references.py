"""What `checks/gpu.py` compares a GPU with, made on a CPU in float64: it costs no device time.

    python checks/references.py .carry/references.pt

NumPy's RandomState draws the weights, because NumPy guarantees its stream: another version of
PyTorch on the device builds the same network, and the file need not carry the weights.
"""

from __future__ import annotations

import argparse
import contextlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tcformer
from tcformer.bench import inputs
from tcformer.models import tcformer as ctm
from tcformer.models.tcformer import SAME
from tcformer.ops import dpc_knn
from tcformer.ops.dpc_knn import Clusters, eager
from tcformer.ops.dpc_knn.peaks import neg_log_density, rank_of

CPU = torch.device("cpu")
NEIGHBORS = 5
ONE_CTM = 512
"""Pictures from this side on are clustered at the first merge only, to keep the file small."""


def build(name: str) -> nn.Module:
    """The network in eval mode, with weights that depend on the names of its parameters alone."""
    model = tcformer.create_model(name).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            draw = np.random.RandomState(zlib.crc32(key.encode()))
            value = torch.from_numpy(draw.random_sample(tuple(parameter.shape))) * 2 - 1
            if parameter.ndim > 1:
                value *= (3 / parameter[0].numel()) ** 0.5
            else:
                value *= 0.1
                if key.endswith("weight"):  # of a norm
                    value += 1
            parameter.copy_(value)
    return model


@contextlib.contextmanager
def watched_clusters(answers: Sequence[Clusters] | None = None) -> Iterator[list[dict[str, Any]]]:
    """Record what a network asks of its clustering; answer in its place where answers are given.

    Args:
        answers: one clustering a merge, for networks that do not cut the image into windows.

    Yields:
        One entry a merge: x (B, N, C), num_clusters, assignment (B, N), centers (B, M).
    """
    real, seen = ctm.cluster_windows, []

    def cluster_windows(
        x: Tensor, parts: Any, num_clusters: int, *rest: Any, **more: Any
    ) -> Clusters:
        if answers is None:
            found = real(x, parts, num_clusters, *rest, **more)
        else:
            found = Clusters(*(part.to(x.device) for part in answers[len(seen)]))
        seen.append(
            {
                "x": x.detach(),
                "num_clusters": num_clusters,
                "assignment": found.assignment,
                "centers": found.centers,
            }
        )
        return found

    ctm.cluster_windows = cluster_windows
    try:
        yield seen
    finally:
        ctm.cluster_windows = real


def scores(x: Tensor, k: int, tolerance: float) -> Tensor:
    """Log of density times separation of every token, (B, N); infinite for the densest."""
    features = eager._prepare(x, None, tolerance, eager.BLOCK_ELEMENTS)
    d2, neighbor = eager._nearest(features, k + eager.NUM_EXTRA)
    density = neg_log_density(d2, k, None, None)
    rank = rank_of(density)
    separation2 = eager._separation(features, rank, d2, neighbor)
    return torch.where(rank == 0, torch.inf, 0.5 * separation2.log() - density)


def case(
    name: str,
    x: Tensor,
    num_clusters: int,
    *,
    k: int = NEIGHBORS,
    mask: Tensor | None = None,
    tolerance: float = 0.0,
) -> dict[str, Any]:
    """One clustering with its answer in float64."""
    visible = x if mask is None else torch.where(mask.unsqueeze(-1), x, 0.0)
    options = {"mask": mask, "tolerance": tolerance}
    found = dpc_knn(visible.double(), num_clusters, k, impl="eager", **options)
    if x.shape[1] <= 196:  # the loops of the definition take longer than a minute beyond this
        loops = dpc_knn(
            visible[:1].double(),
            num_clusters,
            k,
            impl="reference",
            mask=mask if mask is None else mask[:1],
            tolerance=tolerance,
        )
        assert torch.equal(loops.assignment, found.assignment[:1]), name
    return {
        "name": name,
        "x": x,
        "num_clusters": num_clusters,
        "k": k,
        "mask": mask,
        "tolerance": tolerance,
        "assignment": found.assignment,
        "centers": found.centers,
    }


def clustering(quick: bool) -> list[dict[str, Any]]:
    """Tokens as they reach the merges of a network, and tokens that are hard in some way."""
    network = "tcformer_nano" if quick else "tcformer"
    found = []
    model = build(network)
    for count, side in ((1, 32),) if quick else ((4, 224), (1, 256), (1, 512)):
        (images,) = inputs.batches(count, side, device=CPU, count=1)
        with torch.no_grad(), watched_clusters() as merges:
            model(images)
        for number, merge in enumerate(merges[: 1 if side >= ONE_CTM else 3], start=1):
            name = f"{network}, {side} px, CTM {number}"
            found.append(case(name, merge["x"], merge["num_clusters"], tolerance=SAME))

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(np.random.RandomState(sum(shape)).standard_normal(shape)).float()

    tokens, channels = (20, 20) if quick else (150, 1024)
    equal = normal(2, 5, 8)[:, torch.arange(tokens) % 5]
    mask = torch.from_numpy(np.random.RandomState(1).random_sample((3, tokens))) < 0.6
    mask[0] = False
    pairs = normal(2, tokens, 24)
    pairs[:, tokens // 2 :] = pairs[:, : tokens - tokens // 2] + 0.01 * pairs[:, tokens // 2 :]
    return [
        *found,
        case("equal tokens", equal, 8),
        case("a mask, the first image wholly masked", normal(3, tokens, 8), 5, mask=mask),
        case("wide features of scale 1e-18", 1e-18 * normal(2, tokens, channels), 12),
        case("fewer tokens than neighbors", normal(2, 3, 4), 2),
        case("close pairs", pairs, 12),
        case("close pairs far from zero", pairs + 100, 12),
    ]


def network(name: str, quick: bool) -> dict[str, Any]:
    """Logits, last tokens and clusters in float64; gradients where the network is small."""
    model = build(name).double()
    count, side = (1, 32) if quick else (8, 224)
    (images,) = inputs.batches(count, side, device=CPU, count=1)
    with torch.no_grad(), watched_clusters() as merges:
        logits = model(images.double())
        tokens = model.forward_tokens(images.double())[-1].x
    clusters = [[merge["assignment"], merge["centers"]] for merge in merges[:3]]
    found = {"images": images, "logits": logits, "tokens": tokens.float(), "clusters": clusters}
    if name == "tcformer_nano":
        found["gradients"] = gradients(model, images[:2].double())
    return found


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Of the cross-entropy with labels 0, 1, ..., by parameter, in float32 on the CPU."""
    model.zero_grad()
    labels = torch.arange(len(images), device=images.device)
    nn.functional.cross_entropy(model(images), labels).backward()
    return {
        key: parameter.grad.float().cpu()
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def make(path: Path, *, quick: bool = False) -> None:
    """Write all references to a file."""
    names = ("tcformer_nano",) if quick else ("tcformer_nano", "tcformer")
    path.parent.mkdir(parents=True, exist_ok=True)
    networks = {name: network(name, quick) for name in names}
    torch.save({"quick": quick, "clustering": clustering(quick), "networks": networks}, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="the file to write")
    make(parser.parse_args().path)

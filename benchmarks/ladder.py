"""What each kind of kernel brings on a CPU: the network with more and more of them, in turns.

    python benchmarks/ladder.py [--images FOLDER] [--batch 1 8] [--rounds 7] [--output PLACE]

The lowest step is plain PyTorch; oneDNN's linears, the C++ clustering and the C++ conversions
between tokens and maps come on top; timm's pvt_v2_b2 runs beside them. docs/performance.md shows
the record.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch

import tcformer
from tcformer.bench import inputs, record
from tcformer.ops.dispatch import plain_pytorch
from tcformer.runtime import timing

STEPS = {
    "plain PyTorch": (),
    "+ oneDNN": ("linear",),
    "+ C++ clustering": ("linear", "dpc_knn"),
    "+ C++ token maps": ("linear", "dpc_knn", "regroup", "token_conv"),
}
OPS = ("linear", "dpc_knn", "regroup", "token_conv")


def main() -> None:
    """Measure, print, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    device = torch.device("cpu")
    kept = record.begin(sys.argv[1:], device, "python benchmarks/ladder.py")
    kept["ladder"] = []
    for batch in options.batch:
        pictures = inputs.batches(batch, 224, folder=options.images, device=device)
        for mode in ("inference", "training"):
            times = measure(pictures, mode, options.rounds)
            ratios = timing.ratios(times, "pvt_v2_b2")
            row = {"batch": batch, "mode": mode, "ratios": ratios, "seconds": times}
            kept["ladder"].append(row)
            for name, found in ratios.items():
                low, high = found["low"], found["high"]
                print(f"{mode} {batch}: {name:20} {found['median']:.2f} ({low:.2f}-{high:.2f})")
    print(f"wrote {record.keep(kept, 'ladder', options.output)}")


def measure(pictures: list[torch.Tensor], mode: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of every step of the ladder and of PVTv2, round by round."""
    torch.manual_seed(0)
    ours, twin = tcformer.create_model("tcformer"), timm.create_model("pvt_v2_b2")
    steps = {name: step(ours, pictures, mode, fast) for name, fast in STEPS.items()}
    steps["pvt_v2_b2"] = step(twin, pictures, mode, OPS)
    return timing.interleaved(steps, device=torch.device("cpu"), rounds=rounds, warmup=1, turn=0)


def step(
    model: torch.nn.Module, pictures: list[torch.Tensor], mode: str, fast: tuple[str, ...]
) -> Callable[[int], None]:
    """A forward pass, or a whole training step, with the fast implementations of some ops."""
    model.train(mode == "training")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def run(number: int) -> None:
        images = pictures[number % len(pictures)]
        slow = [op for op in OPS if op not in fast]
        with plain_pytorch(*slow) if slow else contextlib.nullcontext():
            if mode == "inference":
                with torch.inference_mode():
                    model(images)
            else:
                model(images).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    return run


if __name__ == "__main__":
    main()

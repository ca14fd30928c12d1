"""Our training beside the published code's, and how far rounding carries trainings apart.

    python benchmarks/trajectory.py

Trains `tcformer_light` as the published code was trained for the 40 losses in tests/golden/model:
the same weights, batches and AdamW. Then goes on, in variants that differ by nothing but rounding:
precision, kernels, threads, weights changed in their last bit. Each runs in a process of its own.
Beside the losses the partitions of all images are compared: a cluster that rounding decides is
the discrete event at which trainings can part. "imposed" trains in float32 with the clusters of
the float64 run, so that what remains is rounding alone. With --work FOLDER a run that was broken
off goes on: variants that are complete there are not trained again. Writes one record into
benchmarks/results; `make docs` puts it into docs/results.md.
A trial: --steps 3 --held-out 1 --variants shipped imposed --output /tmp
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tcformer
from tcformer.bench import record
from tcformer.files import atomic_write
from tcformer.models import tcformer as ctm
from tcformer.ops import Clusters
from tcformer.ops.dispatch import unsupported_reason
from tcformer.runtime import provenance

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))

import golden  # noqa: E402  (the weights, batches and updates are those of the tests)

MODEL, CLASSES = "tcformer_light", 4
BASE = "float64"
"""The variant that all partitions are compared with, and whose clusters are imposed."""
MERGES = (1, 2, 3)
LEVELS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Differences of the loss whose first step is looked for."""

HELD_OUT = 100_000
"""Number of the first batch that no training sees."""


@dataclass(frozen=True)
class Variant:
    """One way to compute the same training."""

    words: str
    """For the page."""
    dtype: str = "float32"
    threads: int = 1
    native: bool = True
    nudge: float = 0.0
    """Weights begin at their neighbour in float32 towards this infinity; 0: where they are."""
    imposed: bool = False


VARIANTS = {
    BASE: Variant("float64", dtype="float64"),
    "shipped": Variant("float32 as it comes, one thread"),
    "again": Variant("the same once more"),
    "plain": Variant("float32 without the C++ kernels", native=False),
    "threads": Variant("float32 on two threads", threads=2),
    "nudged": Variant("float32, every weight one unit in the last place up", nudge=float("inf")),
    "imposed": Variant("float32 with the clusters of the float64 run", imposed=True),
}


def main() -> None:
    """Train all variants, compare them, keep the record."""
    options = parse()
    if options.child:
        train(options.child, options)
        return
    kept = record.begin(sys.argv[1:], torch.device("cpu"), "python benchmarks/trajectory.py")
    published = {name: golden.training_losses(name) for name in ("float32", "float64")}
    kept |= {"model": MODEL, "steps": options.steps, "published": published, "variants": {}}
    names = [BASE, *dict.fromkeys(options.variants)]
    traces = {}
    with contextlib.ExitStack() as stack:
        own = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(ThreadPoolExecutor(options.jobs))
        launch(BASE, options, own)  # the others may need its clusters
        ready = pool.map(lambda name: launch(name, options, own), names)
        for name, found in zip(names, ready, strict=True):
            traces[name] = dict(np.load(own / f"{name}.npz"))
            kept["variants"][name] = found | compared(name, found, published)
            print(f"{name}: {found['processor_seconds']:.0f} s of processor time", flush=True)
        for name in names:
            kept["variants"][name]["weights_apart"] = apart(own, name)
    for name, trace in traces.items():
        off = (trace["partition"] != traces[BASE]["partition"]).any(-1)
        kept["variants"][name]["images_off"] = off.any(1).sum(1).tolist()
    kept["pairs"] = [pair(a, b, kept, traces) for a, b in itertools.combinations(traces, 2)]
    print(f"wrote {record.keep(kept, 'trajectory', options.output)}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="updates of each variant")
    parser.add_argument("--held-out", type=int, default=64, help="batches of 8 to evaluate on")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=[name for name in VARIANTS if name != BASE],
        default=[name for name in VARIANTS if name != BASE],
        help=f"what to train beside {BASE}",
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--work", type=Path, help="folder that keeps what each variant has found")
    parser.add_argument("--output", type=Path, help="folder or file of the record")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.steps, options.held_out, options.jobs) < 1:
        parser.error("--steps, --held-out and --jobs count from 1")
    if options.work is not None and not options.work.is_dir():
        parser.error(f"there is no folder {options.work}")
    return options


def launch(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train one variant in a process that has its environment from the start; what it found."""
    variant, path = VARIANTS[name], folder / f"{name}.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if (len(found["losses"]), found["held_out"]["images"]) == (
            options.steps,
            8 * options.held_out,
        ):
            return found
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(variant.threads),
        "OMP_WAIT_POLICY": "passive",  # a waiting thread leaves the processor to others
        "TCFORMER_NATIVE": "1" if variant.native else "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    words = ["--child", name, "--folder", str(folder), "--steps", str(options.steps)]
    words += ["--held-out", str(options.held_out)]
    subprocess.run([sys.executable, __file__, *words], env=environment, check=True)
    return json.loads(path.read_text())


def train(name: str, options: argparse.Namespace) -> None:
    """In the child: train, evaluate, leave everything in the folder."""
    variant = VARIANTS[name]
    torch.set_num_threads(variant.threads)
    reason = unsupported_reason("cpp", "cpu")
    if variant.native and reason is not None:
        raise SystemExit(f"error: the variant {name!r} needs the C++ kernels: {reason}")
    dtype = getattr(torch, variant.dtype)
    model = golden.fill(tcformer.create_model(MODEL, num_classes=CLASSES))
    if variant.nudge:
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.nextafter(weight, torch.full_like(weight, variant.nudge)))
    model.to(dtype)
    imposed = None
    if variant.imposed:
        imposed = dict(np.load(options.folder / f"{BASE}.npz"))
    begin, processor = time.perf_counter(), time.process_time()
    with watched(model, imposed) as seen:
        losses = list(golden.train(model, options.steps))
    row = {
        **vars(variant),
        **provenance.source_version(),
        "nudge": variant.nudge > 0,
        "onednn": linear_of(dtype),
        "losses": losses,
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - processor,
        "held_out": evaluate(model, options.held_out),
    }
    if imposed is not None:
        row["overruled"] = seen.pop("overruled")
    arrays = {key: np.stack(values) for key, values in seen.items() if key != "overruled"}
    # (steps * merges, B, cells) -> (steps, merges, B, cells)
    partition = arrays.pop("partition").reshape(options.steps, len(MERGES), 8, -1)
    np.savez(options.folder / f"{name}.npz", partition=partition, **arrays)
    torch.save([p.detach().double() for p in model.parameters()], options.folder / f"{name}.pt")
    # Last and at once: a variant with this file is complete.
    text = json.dumps(row)
    atomic_write(options.folder / f"{name}.json", lambda stream: stream.write(text.encode()))


def linear_of(dtype: torch.dtype) -> bool:
    """Whether linear layers of this precision go through oneDNN."""
    return dtype == torch.float32 and unsupported_reason("onednn", "cpu") is None


@contextlib.contextmanager
def watched(model: torch.nn.Module, imposed: dict | None) -> Iterator[dict[str, list]]:
    """Within, every merge leaves its clusters and its partition of the cells; some take others'."""
    seen: dict[str, list] = {"partition": [], "overruled": []}
    seen |= {f"{what}{m}": [] for m in MERGES for what in ("assignment", "centres")}
    calls = itertools.count()
    own = ctm.cluster_parts

    def choose(*arguments, **options) -> Clusters:
        step, merge = divmod(next(calls), len(MERGES))
        found = own(*arguments, **options)
        seen[f"assignment{merge + 1}"].append(found.assignment.to(torch.int16).numpy())
        seen[f"centres{merge + 1}"].append(found.centers.to(torch.int16).numpy())
        if imposed is None:
            return found
        others = Clusters(
            *(
                torch.tensor(imposed[f"{what}{merge + 1}"][step]).long()
                for what in ("assignment", "centres")
            )
        )
        centres = (found.centers != others.centers).any(1)
        for image in (centres | (found.assignment != others.assignment).any(1)).nonzero():
            kind = "centre" if centres[image] else "member"
            seen["overruled"].append([step, merge + 1, int(image), kind])
        return others

    def partition(_module: object, _inputs: object, output: tuple) -> None:
        cells = output[0].layout.cell_to_token.numpy()
        seen["partition"].append(golden.by_first_appearance(cells).astype(np.uint8))

    hooks = [getattr(model, f"ctm{m}").register_forward_hook(partition) for m in MERGES]
    ctm.cluster_parts = choose
    try:
        yield seen
    finally:
        ctm.cluster_parts = own
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def evaluate(model: torch.nn.Module, batches: int) -> dict[str, float]:
    """Loss and accuracy on images that were not trained on, with the model's own clusters."""
    dtype = next(model.parameters()).dtype
    model.eval()
    losses, right, count = [], 0, 0
    for number in range(batches):
        images, labels = golden.training_batch(HELD_OUT + number)
        logits = model(images.to(dtype))
        losses.append(F.cross_entropy(logits, labels).item())
        right, count = right + int((logits.argmax(1) == labels).sum()), count + len(labels)
    return {"loss": float(np.mean(losses)), "accuracy": 100 * right / count, "images": count}


def compared(name: str, found: dict, published: dict) -> dict[str, Any]:
    """Differences from the published losses of the same precision."""
    theirs = published[VARIANTS[name].dtype]
    both = list(zip(found["losses"], theirs, strict=False))
    differences = [abs(ours - other) for ours, other in both]
    return {"from_published": differences, "largest_from_published": max(differences)}


def apart(folder: Path, name: str) -> float:
    """Distance of the last weights from the float64 run's, over the way that those have gone."""
    start = golden.fill(tcformer.create_model(MODEL, num_classes=CLASSES)).double().parameters()
    ours, theirs = (torch.load(folder / f"{one}.pt") for one in (name, BASE))
    gap = sum((a - b).square().sum() for a, b in zip(ours, theirs, strict=True))
    way = sum((b - s).detach().square().sum() for b, s in zip(theirs, start, strict=True))
    return float((gap / way).sqrt())


def pair(a: str, b: str, kept: dict, traces: dict) -> dict[str, Any]:
    """Where two variants part: steps are counted from 0, None where it does not happen."""
    one, other = (np.array(kept["variants"][name]["losses"]) for name in (a, b))
    gap = np.abs(one - other)
    flipped = (traces[a]["partition"] != traces[b]["partition"]).any(-1).any(-1)
    return {
        "pair": [a, b],
        "largest": float(gap.max()),
        "first": {f"{level:g}": first(gap > level) for level in LEVELS},
        "first_flip": {str(merge): first(flipped[:, merge - 1]) for merge in MERGES},
    }


def first(happens: np.ndarray) -> int | None:
    """The first step at which it does."""
    steps = np.flatnonzero(happens)
    return int(steps[0]) if len(steps) else None


if __name__ == "__main__":
    main()

"""Time our models beside a PVTv2 of the same size: `make bench`.

Both run in one process and take turns, round by round, so that a busy machine slows both; what is
reported is the ratio within a round (median and quartiles), then the milliseconds behind it. A
figure without machine and versions is worth nothing: both are printed, and `--save` keeps them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch

import tcformer

PAIRS = {
    "tcformer_light": "pvt_v2_b1",
    "tcformer": "pvt_v2_b2",
    "tcformer_large": "pvt_v2_b4",
}
"""Ours -> the PVTv2 with the same widths and depths."""


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", choices=PAIRS, default="tcformer", help="which of ours")
    parser.add_argument("--size", type=int, default=224, help="side of the image, pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="images at once")
    parser.add_argument("--rounds", type=int, default=10, help="turns that each model takes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if left out")
    parser.add_argument("--save", action="store_true", help="keep the record in benchmarks/results")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    print(f"{options.model} against {PAIRS[options.model]}, {options.size} px, float32")
    print(" | ".join(f"{name} {value}" for name, value in machine(options.device).items()))
    rows = []
    for training in (False, True):
        for batch in options.batch:
            row = compare(options, batch, training)
            rows.append(row)
            low, middle, high = row["ratio"]
            print(
                f"{row['what']:>9} of {batch:>3}: {middle:.2f} times as long "
                f"(quartiles {low:.2f} to {high:.2f}; {row['ours_ms']:.1f} ms against "
                f"{row['theirs_ms']:.1f} ms)"
            )
    if options.save:
        keep(options, rows)


def compare(options: argparse.Namespace, batch: int, training: bool) -> dict:
    """Times of one kind of step at one batch size, ours and theirs in turns."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, options.size, options.size, device=options.device)
    steps = [
        step(timm.create_model(name).to(options.device), images, training)
        for name in (options.model, PAIRS[options.model])
    ]
    for run in steps * 2:  # the first runs allocate and choose algorithms
        timed(run, options.device)
    times = [[timed(run, options.device) for run in steps] for _ in range(options.rounds)]
    return {
        "what": "training" if training else "inference",
        "batch": batch,
        "rounds": options.rounds,
        "ratio": quartiles([ours / theirs for ours, theirs in times]),
        "ours_ms": statistics.median(ours for ours, _ in times) * 1e3,
        "theirs_ms": statistics.median(theirs for _, theirs in times) * 1e3,
    }


def step(model: torch.nn.Module, images: torch.Tensor, training: bool) -> Callable[[], None]:
    """One forward in evaluation mode, or one forward and backward in training mode."""
    model.train(training)

    def run() -> None:
        if not training:
            with torch.inference_mode():
                model(images)
            return
        model.zero_grad(set_to_none=True)
        model(images).square().mean().backward()

    return run


def timed(run: Callable[[], None], device: str) -> float:
    """Seconds of one call, the accelerator's work included."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


def machine(device: str) -> dict[str, str]:
    """What the figures depend on."""
    on_gpu = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if on_gpu else processor()
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "tcformer": tcformer.__version__,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({torch.backends.cpu.get_cpu_capability()})" if names else "CPU"


def keep(options: argparse.Namespace, rows: list[dict]) -> None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    record = {
        "command": f"benchmarks/models.py --model {options.model} --size {options.size}",
        "commit": commit,
        **machine(options.device),
        "rows": rows,
    }
    day = datetime.date.today().isoformat()
    kind = "gpu" if options.device.startswith("cuda") else "cpu"
    path = Path(__file__).parent / "results" / f"{day}-{options.model}-{kind}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"kept in {path}")


if __name__ == "__main__":
    main()

"""`tcformer evaluate-keypoints TRUTH.json RESULTS.json`: AP of people, or the error of faces."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcformer.cli.parser import Parser
from tcformer.files import atomic_write, check_writable
from tcformer.images import LeftOut


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer evaluate-keypoints --help`."""
    parser = Parser(
        "evaluate-keypoints",
        epilog="People: six average precisions as the official script of COCO-WholeBody computes "
        "them (of a file with COCO's 17 keypoints, one). Faces (WFLW): the mean error in units of "
        "the distance of the outer eye corners, with the subsets that the file names.",
    )
    parser.add_argument("truth", metavar="TRUTH.json", help="annotations in COCO's format")
    parser.add_argument("results", metavar="RESULTS.json", help="a list of predictions")
    parser.add_argument("--out", metavar="FILE.json", help="write all numbers here")
    parser.add_argument("--record", metavar="FILE.json", default="", help="write the record of "
        "this evaluation here")  # fmt: skip
    args = parser.parse_args(argv)
    for name in (args.out, args.record):
        if name:
            check_writable(name, made_from=[args.truth, args.results])

    result, lines = _recorded(args, argv) if args.record else _evaluated(args)
    if args.out:
        text = json.dumps(result, indent=2) + "\n"
        atomic_write(Path(args.out), lambda file: file.write(text.encode()))
        lines.append(f"wrote {args.out}")
    print("\n".join(lines))
    return 0


def _evaluated(args: Namespace) -> tuple[Mapping[str, Any], list[str]]:
    """All numbers, and the lines that tell of them."""
    from tcformer.data.keypoints.annotations import read_truth
    from tcformer.tasks.pose.results import read_predictions

    truth = read_truth(args.truth)
    found, others = read_predictions(args.results, truth)
    if truth.kind.sigmas is None:
        from tcformer.data.keypoints.people import measurable_faces
        from tcformer.tasks.pose.nme import evaluate_faces

        errors = evaluate_faces(truth, found)
        lines = [f"NME of {name:<12} {100 * e:7.3f} %" for name, e in errors.items()]
        measured, left_out = measurable_faces(truth)
        return errors, lines + _on(len(measured.annotations), "faces", left_out, others)

    from tcformer.tasks.pose.average_precision import STATISTICS, evaluate_keypoints, ignored

    table = evaluate_keypoints(truth, found)
    lines = [" ".join([f"{'':<9}", *(f"{name:>6}" for name in STATISTICS)])]
    for part, values in table.items():
        cells = (f"{values[name]:6.3f}" for name in STATISTICS)
        lines.append(" ".join([f"{part:<9}", *cells]))
    left_out = ignored(truth)
    people = len(truth.annotations) + truth.num_others - left_out.others.total()
    lines += _on(people, "people", left_out, others)
    without = len(set(truth.images) - {entry["image_id"] for entry in found})
    if without:
        lines.append(f"{without} of {len(truth.images)} images have no results.")
    return table, lines


def _on(number: int, whom: str, left_out: LeftOut, others: int) -> list[str]:
    """What the figures are about."""
    if others:
        left_out.others["results of other categories"] = others
    return ["; ".join(filter(None, [f"Measured on {number} {whom}", str(left_out)])) + "."]


def _recorded(args: Namespace, argv: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """The same with a record: what was compared, by its hashes, where, and what it came to."""
    from tcformer.runtime.distributed import World
    from tcformer.training.record import Kept, RunRecord, recording
    from tcformer.weights.released import file_sha256

    files = {"truth": args.truth, "results": args.results}
    kept = Kept(record=args.record, eval=True)
    record = RunRecord(kept, World(), ["evaluate-keypoints", *argv], config=files)
    with recording(record):
        result, lines = _evaluated(args)
        data = {name: {"sha256": file_sha256(Path(file))[:16]} for name, file in files.items()}
        record.begin({"task": "pose", "model": None, "parameters": None, "data": data})
        numbers: dict[str, float] = {}
        for name, value in result.items():
            of_a_part = value if isinstance(value, Mapping) else {"": value}
            numbers |= {f"{name} {what}".strip(): float(v) for what, v in of_a_part.items()}
        record.result(numbers)
    return result, [*lines, f"The record goes to {args.record}"]

"""`tcformer evaluate-keypoints TRUTH.json RESULTS.json`: AP of people, or the error of faces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser

HELP = VERBS["evaluate-keypoints"]


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
    parser.add_argument("--out", metavar="FILE.json", default=None, help="write all numbers here")
    args = parser.parse_args(argv)

    from tcformer.data.keypoints.annotations import read_truth
    from tcformer.files import atomic_write
    from tcformer.tasks.pose.results import read_predictions

    truth = read_truth(args.truth)
    found = read_predictions(args.results, truth)
    result: Mapping[str, object]
    if truth.kind.sigmas is None:
        from tcformer.tasks.pose.nme import evaluate_faces

        errors = evaluate_faces(truth, found)
        lines = [f"NME of {name:<12} {100 * value:7.3f} %" for name, value in errors.items()]
        result = errors
    else:
        from tcformer.tasks.pose.evaluation import STATISTICS, evaluate_keypoints

        table = evaluate_keypoints(truth, found)
        lines = [" ".join([f"{'':<9}", *(f"{name:>6}" for name in STATISTICS)])]
        for part, values in table.items():
            cells = (f"{values[name]:6.3f}" for name in STATISTICS)
            lines.append(" ".join([f"{part:<9}", *cells]))
        result = table
    if args.out:
        text = json.dumps(result, indent=2) + "\n"
        atomic_write(Path(args.out), lambda file: file.write(text.encode()))
        lines.append(f"wrote {args.out}")
    print("\n".join(lines))
    return 0

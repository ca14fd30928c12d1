"""`tcformer bench`: measure models and ops side by side; the work is in `tcformer.bench`."""

from __future__ import annotations

import argparse

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser
from tcformer.errors import UserError

HELP = VERBS["bench"]

QUICK_ROUNDS = 2


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer bench --help`."""
    options = parse(argv)
    from tcformer.bench.run import run

    return run(options, argv)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read and check the options, without importing torch."""
    options = _parser().parse_args(argv)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else 10
    elif options.rounds < 5 and not options.quick:
        raise UserError(
            f"tcformer bench: --rounds must be at least 5, not {options.rounds}: the spread of "
            "fewer says nothing; --quick makes a trial run."
        )
    elif options.rounds < 1:
        raise UserError(f"tcformer bench: --rounds must be at least 1, not {options.rounds}.")
    if options.warmup is None:
        options.warmup = 1 if options.quick else 3
    for name, least in (("warmup", 0), ("batch", 1), ("size", 1)):
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < least:
                raise UserError(f"tcformer bench: --{name} must be at least {least}, not {value}.")
    if not options.budget > 0:
        raise UserError(
            f"tcformer bench: --budget must be more than 0 seconds, not {options.budget:g}."
        )
    return options


def _parser() -> Parser:
    parser = Parser(
        "bench",
        epilog="A model is NAME[+TRAIT...]: NAME one of ours or of timm's, TRAIT compile, graph "
        "(replayed from a CUDA graph) or published (TCFormer as the published code computes it). "
        "All of them take turns in one process. Times are compared within a round; the figures "
        "are median and quartiles of these ratios.",
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="models side by side, such as tcformer pvt_v2_b2 swin_tiny_patch4_window7_224 "
        "resnet50; if left out, tcformer beside pvt_v2_b2 and tcformer_light beside pvt_v2_b1",
    )
    what.add_argument(
        "--against",
        metavar="NAME",
        help="the model that the others are divided by; if left out, the PVTv2 of the same size",
    )
    what.add_argument(
        "--mode",
        nargs="+",
        choices=("inference", "training"),
        help="a forward pass, or a whole step with backward and AdamW; both if left out",
    )
    what.add_argument("--batch", type=int, nargs="+", metavar="N", help="images at once (1 and 8)")
    what.add_argument(
        "--size", type=int, nargs="+", metavar="PIXELS", help="side of the images (224)"
    )
    what.add_argument(
        "--sweep",
        choices=("resolution", "batch"),
        help="a row of sizes from 224 to 2048 pixels at batch 1, or a row of batch sizes; what "
        "would not fit into memory is left out and named",
    )
    what.add_argument(
        "--phases",
        action="store_true",
        help="also the time of each phase: stem, stage 1, CTM 1, ..., head (eager inference)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    how.add_argument(
        "--dtype",
        choices=("float32", "bf16", "fp16"),
        default="float32",
        help="precision; the half ones by autocast",
    )
    how.add_argument(
        "--compile", action="store_true", help="torch.compile every model; timed separately"
    )
    how.add_argument(
        "--channels-last", action="store_true", help="images and weights in channels-last order"
    )
    how.add_argument("--threads", type=int, metavar="N", help="CPU threads; torch's own choice")
    how.add_argument(
        "--images",
        metavar="FOLDER",
        help="photographs to feed in; if left out, drawn pictures with calm and detailed parts",
    )
    how.add_argument("--rounds", type=int, metavar="N", help="turns of each model, 5 or more (10)")
    how.add_argument("--warmup", type=int, metavar="N", help="calls before anything is timed (3)")
    how.add_argument(
        "--budget",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="begin no further round of a case after this time; three are made in any case",
    )
    how.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that everything works; no record"
    )
    how.add_argument(
        "--output",
        metavar="PLACE",
        help="folder (or file ending in .json) for the record; benchmarks/results if left out",
    )
    return parser

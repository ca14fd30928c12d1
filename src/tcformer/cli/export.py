"""`tcformer export`: a network as a file for other programs, checked against PyTorch."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from tcformer.cli.parser import Parser, load_network, print_notes
from tcformer.errors import UserError


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer export --help`."""
    args = _parse(argv)
    size = None if args.size is None else _size(args.size)
    if args.dtype != "float32":
        raise UserError(
            f"--dtype {args.dtype} is not exported: distances in half precision choose other "
            "clusters than the network was trained with; leave it at float32"
        )

    from tcformer import export
    from tcformer.export.formats import choose
    from tcformer.weights.metadata import size_note

    chosen = choose(args.format, args.out)
    loaded = load_network(args)
    print_notes((*loaded.notes, *(size_note(loaded.trained_at, *size) if size else [])))
    out = Path(args.out or f"{loaded.name}{chosen.suffix}")
    report = export.export(
        loaded,
        out,
        format=chosen.name,
        size=size,
        input=args.input,
        outputs=_outputs(args.outputs, bool(loaded.num_classes)),
        opset=args.opset,
        images=args.images,
        time_batches=args.time,
    )
    height, width = report.contract.size
    shape = ", ".join(map(str, ("batch", *report.contract.input_shape)))
    kind = "uint8" if args.input == "pixels" else "float32"
    print(f"{loaded.name}, images of {height} x {width} px")
    print(f"in:  images ({shape}) {kind}")
    print(f"out: {', '.join(report.contract.output_names)}")
    batches = " and ".join(map(str, dict.fromkeys(report.parity.batches)))
    print(f"compared with PyTorch on {report.pictures}, in batches of {batches}:")
    for line in report.parity.lines():
        print(f"  {line}")
    for times in report.times:
        print(times.line())
    for file in report.files:
        print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser(
        "export",
        epilog="A file is written only if the exported model, opened again, clusters the images "
        "as PyTorch does and gives the same numbers.",
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="name of the variant (default: the checkpoint's "
        "own, else tcformer_light)")  # fmt: skip
    parser.share("checkpoint", "ema", checkpoint={"help": "trained weights; without them the "
        "network is random"})  # fmt: skip
    add("--out", metavar="FILE", help="file to write (default: the model's name)")
    add("--format", metavar="FORMAT", help="onnx, pt2 (torch.export), aoti (AOTInductor) or "
        "openvino (default: by the ending of --out, else onnx)")  # fmt: skip
    add("--size", metavar="N|HxW", help="height and width of the images, fixed in the file "
        "(default: that of the training)")  # fmt: skip
    add("--input", choices=("normalised", "pixels"), default="normalised", help="float32 (batch, "
        "3, H, W) with mean and std taken off, or uint8 pixels (batch, H, W, 3)")  # fmt: skip
    add("--outputs", nargs="+", metavar="NAME", help="logits, features (a map for each stage), "
        "tokens (of each cell at each stage); by default tokens and, where there are classes, "
        "logits")  # fmt: skip
    add("--dtype", metavar="TYPE", default="float32", help="of weights and arithmetic")
    add("--opset", metavar="N", type=int, help="ONNX's operators (default: 20)")
    add("--images", nargs="+", metavar="FILE", default=(), help="images to compare on (default: 4 "
        "drawn scenes)")  # fmt: skip
    add("--time", nargs="*", type=int, metavar="BATCH", help="time the exported model and PyTorch "
        "in turns, for these numbers of images (default with --time: 1)")  # fmt: skip
    args = parser.parse_args(argv)
    args.time = () if args.time is None else (args.time or [1])
    return args


def _outputs(asked: list[str] | None, classifies: bool) -> list[str]:
    if asked is not None:
        return asked
    return ["logits", "tokens"] if classifies else ["features", "tokens"]


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is not None:
        return int(match[1]), int(match[2] or match[1])
    if text.lower() in ("dynamic", "any", "-1"):
        raise UserError(
            f"--size {text}: height and width cannot be left open, because they decide how many "
            "tokens there are and which cells a pixel has; export one file for each size"
        )
    raise UserError(f"--size takes pixels, such as 224 or 256x192 (height x width), not {text!r}")

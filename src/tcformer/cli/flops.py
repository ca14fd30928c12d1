"""`tcformer flops`: parameters and operations, as published and as really executed."""

from __future__ import annotations

from tcformer.cli.parser import Parser
from tcformer.errors import UserError, cut

RULE = "=" * 30

MOST_PIXELS = 2048 * 2048
"""Clustering compares every token with every other: time grows with the square of the pixels."""


def main(argv: list[str]) -> int:
    """Print both counts of one model at one image size."""
    parser = Parser(
        "flops",
        epilog="The first figure follows the rules behind the published tables, the second is what "
        "PyTorch counts while this package runs one image. One multiply-add is one operation.",
    )
    parser.add_argument("model", nargs="?", default="tcformer", help="name of the variant")
    parser.add_argument("--shape", type=int, nargs="+", default=[224, 224], metavar="PIXELS",
        help="height and width of the image in pixels, or one number for both")  # fmt: skip
    options = parser.parse_args(argv)
    height, width = _height_and_width(options.shape)

    from tcformer.models.flops import executed_flops, geometry, published_flops
    from tcformer.zoo import create_model

    model = create_model(options.model)
    parts = published_flops(geometry(model), height, width)
    clustering = sum(count for part, count in parts.items() if part.startswith("cluster"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.model}, one image of {height} x {width} pixels, by the published accounting:")
    print(RULE)
    print(f"Flops: {scaled(sum(parts.values()))}FLOPs")
    print(f"Params: {scaled(parameters, unit='M')}")
    print(RULE)
    print(f"of which clustering and merging: {scaled(clustering)}FLOPs")
    executed = executed_flops(model, height, width)
    print(f"Executed: {scaled(executed)} multiply-adds in one forward, as counted by")
    print("torch.utils.flop_counter: matrix products, convolutions, attention and the distances")
    print("of clustering, nothing else")
    return 0


def scaled(count: int, unit: str | None = None) -> str:
    """`count` with two decimals in units of G, M or K: the largest that fits, or the one given."""
    units = {"G": 10**9, "M": 10**6, "K": 10**3}
    unit = unit or next((name for name, size in units.items() if count >= size), "K")
    return f"{count / units[unit]:.2f} {unit}"


def _height_and_width(shape: list[int]) -> tuple[int, int]:
    if len(shape) > 2 or min(shape) < 1:
        raise UserError(
            f"tcformer flops: --shape takes one or two positive numbers, not {shape}; "
            "say for example --shape 384 288."
        )
    height, width = shape[0], shape[-1]
    if height * width > MOST_PIXELS:
        shown = f"{cut(str(height))} x {cut(str(width))}"
        raise UserError(
            f"tcformer flops: an image of {shown} pixels is too large to be run once for "
            f"counting; the limit is {MOST_PIXELS // 2**20} million pixels."
        )
    return height, width

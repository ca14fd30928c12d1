"""Contact sheets as SVG: tokens are paths, pictures are embedded, no other file is needed."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from tcformer.viz.drawing import Drawing, rgb
from tcformer.viz.heat import STOPS
from tcformer.viz.sheet import FRAME, GAP, INK, Plan, Row, plan_sheet

SMALL = 256 * 256
"""Pixels up to which a picture is embedded without loss; above, as JPEG."""

STYLE = (
    ".areas path:hover{stroke:#fff;stroke-width:2;paint-order:stroke}"
    "text{font-family:'Helvetica Neue',Arial,'Liberation Sans',sans-serif}"
)


def svg_sheet(rows: Sequence[Row], *, font_size: int | None = None) -> str:
    """The contact sheet of `contact_sheet` as one SVG document.

    Drawings become paths, one for each token, with a tooltip that says which token it is and how
    large. A picture that several panels share is embedded once.

    Args:
        rows: as in `contact_sheet`.
        font_size: as in `contact_sheet`.

    Returns:
        the document; well-formed XML, the same for the same input.
    """
    plan = plan_sheet(rows, font_size=font_size)
    height, width = plan.size
    pictures: dict[int, str] = {}
    definitions: list[str] = []
    body: list[str] = []
    for row, places in zip(rows, plan.places, strict=True):
        for panel, (left, top) in zip(row.panels, places, strict=True):
            drawn = isinstance(panel.picture, Drawing)
            pixels = panel.picture.image if isinstance(panel.picture, Drawing) else panel.picture
            if id(pixels) not in pictures:
                pictures[id(pixels)] = name = f"picture{len(pictures) + 1}"
                definitions.append(_embedded(pixels, name))
            name = pictures[id(pixels)]
            inside = panel.picture.svg(name) if drawn else f'<use href="#{name}"/>'  # type: ignore[union-attr]
            high, wide = panel.size
            body.append(
                f'<rect x="{left - 0.5}" y="{top - 0.5}" width="{wide + 1}" height="{high + 1}" '
                f'fill="none" stroke="{rgb(FRAME)}"/>\n'
                f'<svg x="{left}" y="{top}" width="{wide}" height="{high}" '
                f'viewBox="0 0 {wide} {high}">\n<title>{xml_text(panel.caption)}</title>\n'
                f"{inside}\n</svg>"
            )
    stops = "".join(
        f'<stop offset="{level / 255:.3f}" stop-color="{rgb(colour)}"/>' for level, colour in STOPS
    )
    definitions.append(f'<linearGradient id="ramp">{stops}</linearGradient>')
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-size="{plan.font_size}">',
            f"<style>{STYLE}</style>",
            f"<defs>{''.join(definitions)}</defs>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *body,
            *_words(plan),
            "</svg>",
            "",
        ]
    )


def _words(plan: Plan) -> list[str]:
    """Texts and bars.

    A text's place is its upper end, where SVG asks for the line it stands on. Browsers have other
    fonts than Pillow: each text is told to be as long as it was planned.
    """
    font = ImageFont.load_default(plan.font_size)
    above = 0.95 * plan.font_size

    def write(words: str, x: float, line: float, anchor: str) -> str:
        return (
            f'<text x="{x:g}" y="{line:g}" fill="{rgb(INK)}" text-anchor="{anchor}" '
            f'textLength="{font.getlength(words):.1f}" lengthAdjust="spacingAndGlyphs">'
            f"{xml_text(words)}</text>"
        )

    parts = [
        write(text.words, text.x, text.y + above, "middle" if text.centred else "start")
        for text in plan.texts
        if text.words
    ]
    for bar in plan.bars:
        line = bar.top + bar.height / 2 + 0.35 * plan.font_size
        parts += [
            f'<rect x="{bar.left}" y="{bar.top}" width="{bar.width}" height="{bar.height}" '
            'fill="url(#ramp)"/>',
            write(bar.scale.low, bar.left - GAP / 2, line, "end"),
            write(bar.scale.high, bar.left + bar.width + GAP / 2, line, "start"),
        ]
    return parts


def _embedded(pixels: NDArray[np.uint8], name: str) -> str:
    height, width = pixels.shape[:2]
    data = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if height * width <= SMALL:
        kind = "png"
        picture.save(data, format="PNG", optimize=True)
    else:
        kind = "jpeg"
        picture.save(data, format="JPEG", quality=90)
    code = base64.b64encode(data.getvalue()).decode("ascii")
    return (
        f'<image id="{name}" width="{width}" height="{height}" '
        f'href="data:image/{kind};base64,{code}"/>'
    )


_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(words: str) -> str:
    """Escaped, and without what XML has no place for (a file's name can hold it)."""
    return escape(_FORBIDDEN.sub("\ufffd", words))

"""The sheets of `tcformer confusion`: answers, each picture beside its tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tcformer.predict import Loaded, read_picture
from tcformer.predict.answers import Answer
from tcformer.predict.predict import printable
from tcformer.viz import Figure, Panel, Row, card_sheet, enlarge, layout_maps, unnormalise
from tcformer.viz.sheet import panel_scale, written

PANEL = 192
"""Wished side of a panel in pixels."""

WIDE = 1000
"""Cards whose panels take more pixels stand below each other."""


def draw_answers(
    loaded: Loaded, answers: Sequence[Answer], words: Sequence[str], root: Path
) -> NDArray[np.uint8]:
    """A card for each answer: "truth -> answer 93 %" over the picture and its tokens.

    What is drawn is what the network saw: the middle of the picture, in the photograph's own
    resolution where that is finer.

    Args:
        loaded: the network that gave the answers.
        answers: one or more.
        words: the names of the network's classes.
        root: the folder of the class folders, which names of pictures leave out.

    Returns:
        (height, width, 3) uint8.
    """
    rows = [_row(loaded, answer, words, root) for answer in answers]
    panel = rows[0].panels[0].size[1]
    across = 4 if not loaded.merges else 2 if 4 * panel <= WIDE else 1
    return card_sheet(rows, across=across, font_size=max(16, panel // 18), least_column=PANEL)


def _row(loaded: Loaded, answer: Answer, words: Sequence[str], root: Path) -> Row:
    picture = read_picture(answer.image)
    prepare = loaded.preprocessing
    side = prepare.input_size
    scale = panel_scale((side, side), PANEL)
    ready = prepare(picture)
    scales = {"mean": prepare.spec.norm_mean, "std": prepare.spec.norm_std}
    seen = unnormalise(ready, **scales)
    if min(picture.size) >= 1.5 * side / prepare.kept:
        finer = replace(prepare, input_size=scale * side, crop_pct=prepare.kept)
        shown = unnormalise(finer(picture), **scales)
    else:
        shown = enlarge(seen, scale)
    truth, said = (_writable(words, number) for number in (answer.truth, answer.answer))
    heading = f"{truth} -> {said} {_percent(answer.probability)}"
    if not answer.right:
        heading += f" ({truth} {_percent(answer.truth_probability)})"
    name = _plain(os.path.relpath(answer.image, root))
    panels = [Panel(shown, written(name, "..."))]
    if loaded.merges:
        with torch.inference_mode():
            stages = loaded.backbone.forward_tokens(ready[None].to(loaded.device))
        figure = Figure(shown, layout_maps(stages), seen=(side, side))
        # Before the first merge tokens are squares, and one alone is no picture.
        several = [stage.layout.num_tokens > 1 for stage in stages]
        drawn = zip(figure.draw("mean").panels, several, strict=True)
        panels += [panel for panel, seen_apart in drawn if seen_apart][1:]
    return Row(tuple(panels), heading)


def _writable(words: Sequence[str], number: int) -> str:
    """The name of a class as far as the font has its letters, else its number."""
    return written(_plain(words[number]), f"class {number}")


def _plain(text: str) -> str:
    return printable(" ".join(text.split()))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 or not share else "< 1 %"

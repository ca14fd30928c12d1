"""Drawings: golden pixels, the same as SVG, moving pictures, notebooks."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import nested_maps, procedural_scene
from PIL import Image

from tcformer.errors import UserError
from tcformer.viz import (
    STYLES,
    Figure,
    Frame,
    Panel,
    Row,
    Style,
    contact_sheet,
    draw_tokens,
    encode_frames,
    heat_colors,
    merging_frames,
    resize_image,
    svg_sheet,
    write_moving,
    write_sheet,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "viz"
SEEN = (30, 45)
POINTS = [(60, 20), (100, 72)]
OPAQUE = Style(opacity=100)


def weights():
    """Cell weights as merges by equal importance leave them: one over the cells of a token."""
    return [1 / np.bincount(cells.ravel())[cells.ravel()] for cells in nested_maps()]


def scores():
    return [np.sin(np.arange(cells.max() + 1)) for cells in nested_maps()[:3]]


def figure(scale=3, **options):
    image = resize_image(procedural_scene(), (SEEN[0] * scale, SEEN[1] * scale))
    return Figure(image, nested_maps(), seen=SEEN, weights=weights(), scores=scores(), **options)


def attention(drawn):
    keys = [(cells // 7).ravel() for cells in nested_maps()]
    keys[0][:9] = -1
    weight = [np.linspace(0.01, 0.2, key.max() + 1) for key in keys]
    return drawn.draw_attention(POINTS[0], keys, weight)


ROWS = {
    "row_mean": lambda: figure(2).draw("mean"),
    "row_none_black": lambda: figure(2, look=Style(edge_color=(0, 0, 0), width=0.5)).draw("none"),
    "row_family": lambda: figure().draw("family"),
    "row_family_of_stage_2": lambda: figure(2, look=OPAQUE).draw("family", family_stage=2),
    "row_size": lambda: figure().draw("size", points=POINTS),
    "row_importance": lambda: figure(2, look=Style(outline=False)).draw("importance"),
    "row_region": lambda: figure().draw_regions(POINTS),
    "row_attention": lambda: attention(figure()),
    "row_weights": lambda: figure().draw_contributions(POINTS[0]),
}


LONG = np.broadcast_to(np.uint8(0), (4, 17_000, 3))


def small_row(height):
    return Row((Panel(procedural_scene(height), "a"),))


def panels(row):
    return np.concatenate([panel.pixels() for panel in row.panels], axis=1)


@pytest.mark.parametrize("name", ROWS)
def test_golden_drawings(name):
    """The exact pixels. Files were made by `python tests/viz/test_figure.py` and looked at."""
    golden = np.asarray(Image.open(GOLDEN / f"{name}.png"))
    np.testing.assert_array_equal(panels(ROWS[name]()), golden)


def test_borders_are_seen_on_bright_images_too():
    white = np.full((30, 45, 3), 250, np.uint8)
    light, dark = (255, 255, 255), (48, 48, 48)
    for image, look, color in (
        (white, None, dark),
        (white // 2, None, light),
        (white, Style(edge_color=light), light),
    ):
        drawing = Figure(image, nested_maps(), look=look).draw("mean").panels[3].picture
        assert drawing.edge_color == color
        assert (drawing.pixels() == color).all(axis=2).any()


def test_numbers_of_tokens_have_no_meaning():
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(int(cells.max()) + 1)[cells] for cells in nested_maps()]
    for kind in ("mean", "palette", "family", "size"):
        one = Figure(procedural_scene(), nested_maps()).draw(kind)
        other = Figure(procedural_scene(), shuffled).draw(kind)
        np.testing.assert_array_equal(panels(one), panels(other))


def test_tensors_are_taken_as_well_as_arrays():
    tensors = Figure(
        torch.from_numpy(procedural_scene()),
        [torch.from_numpy(cells).flatten() for cells in nested_maps()],
        weights=[torch.from_numpy(weight).float() for weight in weights()],
    )
    arrays = Figure(procedural_scene(), nested_maps(), weights=weights())
    for draw in (lambda s: s.draw("family"), lambda s: s.draw_contributions((3, 3))):
        np.testing.assert_array_equal(panels(draw(tensors)), panels(draw(arrays)))


def test_captions_and_scales_say_what_is_drawn():
    drawn = figure()
    row = drawn.draw("size")
    assert row.heading == STYLES["size"]
    ends = ["1 cell", "4 cells", "24 cells", "32 cells"]
    assert [panel.scale for panel in row.panels] == [(end, "1") for end in ends]
    assert len(drawn.draw("importance").panels) == 3  # no merge follows on the last stage
    assert attention(drawn).panels[1].scale == ("1 %", "20 %")
    assert drawn.draw_regions(POINTS[:1]).panels[3].caption == "stage 4: 32 cells of 96"
    row = drawn.draw_contributions(POINTS[0], stage=3)
    captions = ["stage 1: 24 tokens", "stage 2: 6 tokens", "stage 3: 1 token"]
    assert [panel.caption for panel in row.panels] == captions
    assert [panel.scale for panel in row.panels][::2] == [("0", "4.2 %"), None]


def test_heat_rises_in_brightness_and_marks_what_is_no_number():
    brightness = heat_colors(np.arange(256)).astype(int) @ [2, 7, 1]
    assert (np.diff(brightness) >= 0).all()
    colors = heat_colors([1.0, float("nan"), 3.0, 2.0])
    assert colors[1].tolist() == [128] * 3
    assert colors[0].tolist() == [16, 12, 58]
    assert colors[2].tolist() == [255, 246, 196]
    assert heat_colors([5.0, 5.0]).tolist() == [[255, 246, 196]] * 2
    assert heat_colors([float("nan")]).tolist() == [[128] * 3]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: figure().draw("rainbow"), "no drawing 'rainbow': choose one of mean, none"),
        (lambda: Figure(procedural_scene(), nested_maps()).draw("importance"), "scores"),
        (lambda: Figure(procedural_scene(), nested_maps()).draw_contributions((0, 0)), "weights"),
        (lambda: figure().draw_contributions((0, 0), stage=1), "give 2 to 4"),
        (lambda: figure().draw_contributions((0, 0), stage=5), "give 2 to 4"),
        (lambda: figure().draw_regions([(135, 0)]), "135,0 lies outside"),
        (lambda: figure().draw("family", family_stage=5), "no stage 5"),
        (lambda: Figure(procedural_scene(), []), "no stage to draw"),
        (lambda: Figure(procedural_scene(60), nested_maps()), "say with seen="),
        (lambda: encode_frames([], "gif"), "at least one frame"),
        (lambda: merging_frames([], seconds=1), "at least one sheet"),
        (lambda: write_moving("a.png", []), r"must end in .gif or .webp, not .png"),
        (lambda: write_sheet("a.gif", []), r"must end in .png or .svg, not .gif"),
        (lambda: write_sheet("a.pgn", []), r"did you mean .png"),
        (lambda: merging_frames([[small_row(30)], [small_row(40)]]), "same sizes"),
        (lambda: encode_frames([Frame(LONG, 100)], "webp"), "a webp holds 16383"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_a_sheet_beyond_all_reason_is_refused_before_it_is_made():
    huge = np.broadcast_to(np.zeros(3, np.uint8), (30_000, 30_000, 3))
    with pytest.raises(UserError, match="smaller --panel-size"):
        contact_sheet([Row((Panel(huge, "huge"),))])


def whole_sheet():
    drawn = figure()
    rows = [drawn.draw("family"), drawn.draw_regions(POINTS), attention(drawn)]
    return [row._replace(heading=f"<{row.heading}> & more") for row in rows]


def test_svg_is_one_well_formed_file_with_a_path_for_every_token():
    document = svg_sheet(whole_sheet())
    assert document == svg_sheet(whole_sheet())
    root = ET.fromstring(document.encode())
    space = "{http://www.w3.org/2000/svg}"
    pictures = [p for p in root.findall(f".//{space}image") if p.get("height") == "90"]
    assert len(pictures) == 1  # shared by twelve panels; the others are ramps of colors
    assert pictures[0].get("href").startswith("data:image/png;base64,")
    assert re.findall(r'(?:href|src)="(?!#|data:)', document) == []
    first = root.findall(f"{space}svg")[0]
    assert len(first.findall(f".//{space}path/{space}title")) == 96
    texts = [text.text for text in root.findall(f"{space}text")]
    assert any(text.startswith("<a token and") for text in texts)
    assert "stage 4: 3 tokens" in texts


def test_svg_survives_any_file_name():
    row = Row((Panel(procedural_scene(), "a\x00b\x1f<&>\ufffe\ud800.jpg"),))
    ET.fromstring(svg_sheet([row]).encode())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_the_svg_as_the_pixels_are(tmp_path):
    rows = whole_sheet()
    sheet = contact_sheet(rows)
    write_sheet(tmp_path / "a.svg", rows)
    call = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    height, width = sheet.shape[:2]
    subprocess.run(
        [
            *call,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},{height + 200}",
            f"--screenshot={tmp_path / 'a.png'}",
            (tmp_path / "a.svg").as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    shown = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))[:height, :width]
    # Other fonts and smoothed lines aside, it is the same picture; a shifted one is not.
    apart = np.abs(shown.astype(int) - sheet).max(-1)
    shifted = np.abs(np.roll(shown, 6, axis=(0, 1)).astype(int) - sheet).max(-1)
    assert (apart > 40).mean() < 0.1
    assert (shifted > 40).mean() > 0.2


def merging():
    drawn = figure()
    rows = [drawn.draw("family"), drawn.draw("mean")]
    return [[Row(tuple(row.panels[stage] for row in rows))] for stage in range(4)]


def test_frames_stand_still_at_stages_and_fade_between():
    frames = merging_frames(merging(), seconds=0.5)
    assert [frame.milliseconds for frame in frames] == [500, *[70] * 4] * 3 + [1000]
    assert len({frame.picture.shape for frame in frames}) == 1
    one, other = frames[0].picture, frames[5].picture
    assert (one != other).any()
    half = frames[3].picture.astype(int)
    low, high = np.minimum(one, other), np.maximum(one, other)
    # Panels lie between their stages; captions are those of one stage or the other.
    assert ((half >= low) & (half <= high)).all()


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_moving_pictures_are_what_was_drawn(tmp_path, kind):
    path = tmp_path / f"merging.{kind}"
    write_moving(path, merging(), seconds=0.5)
    first = path.read_bytes()
    write_moving(path, merging(), seconds=0.5)
    assert path.read_bytes() == first
    frames = merging_frames(merging(), seconds=0.5)
    with Image.open(path) as moving:
        assert moving.n_frames == len(frames)
        assert moving.info["loop"] == 0
        for number, frame in enumerate(frames):
            moving.seek(number)
            moving.load()
            assert moving.info["duration"] == frame.milliseconds
            difference = np.asarray(moving.convert("RGB")).astype(int) - frame.picture
            assert np.abs(difference).mean() < 4


def test_a_notebook_shows_the_tokens_of_each_image_of_a_batch(tmp_path):
    torch.manual_seed(0)
    from tcformer.zoo import create_model

    model = create_model("tcformer_nano").eval()
    with torch.inference_mode():
        stages = model.forward_tokens(torch.randn(2, 3, 30, 45))
    image = procedural_scene()
    how = {"kinds": ("mean", "region", "weights"), "points": [(3, 4)]}
    pictures = [draw_tokens(image, stages, index=index, **how) for index in (0, 1)]
    assert pictures[0]._repr_png_().startswith(b"\x89PNG")
    assert (pictures[0].pixels != pictures[1].pixels).any()
    assert len(pictures[0].rows) == 3
    pictures[0].save(tmp_path / "a.svg")
    ET.parse(tmp_path / "a.svg")
    large = draw_tokens(resize_image(image, (300, 450)), stages, seen=(30, 45), kinds=["palette"])
    assert large.rows[0].panels[0].size == (300, 450)


if __name__ == "__main__":
    from tcformer.viz import write_png

    for name, make in ROWS.items():
        write_png(GOLDEN / f"{name}.png", panels(make()))

"""Contact sheets, and the golden picture."""

from pathlib import Path

import numpy as np
import pytest
from drawn import procedural_scene
from PIL import Image

from tcformer.errors import UserError
from tcformer.viz import Panel, Row, contact_sheet, paint_tokens, token_row

GOLDEN = Path(__file__).parents[1] / "golden" / "viz"


def stage_maps(height=30, width=45):
    """Partitions such as four stages make: nested, not all connected, no network involved."""
    rows, columns = -(-height // 4), -(-width // 4)
    i, j = np.mgrid[:rows, :columns]
    first = i * columns + j
    second = (i // 2) * columns + j // 2
    third = np.where(i < 3, 0, second)
    fourth = np.where(i < 3, 0, 1 + (i + j) % 2)
    return [first, second, third, fourth]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mean", {}),
        ("none_thick_red", {"fill": "none", "edge_color": (255, 0, 0), "width": 2, "scale": 3}),
        ("palette", {"fill": "palette", "outline": False, "scale": 1}),
    ],
)
def test_golden_pictures(name, options):
    """The exact pixels. Files were made by `python tests/viz/test_sheet.py` and looked at."""
    panels = [paint_tokens(procedural_scene(), cells, **options) for cells in stage_maps()]
    golden = np.asarray(Image.open(GOLDEN / f"{name}.png"))
    np.testing.assert_array_equal(np.concatenate(panels, axis=1), golden)


def test_a_row_has_the_image_and_one_panel_for_each_stage():
    image = procedural_scene()
    row = token_row(image, stage_maps(), title="hill", panel_size=135)
    captions = [f"stage {stage}: {count} tokens" for stage, count in enumerate((96, 24, 19, 3), 1)]
    assert [panel.caption for panel in row.panels] == ["hill", *captions]
    assert {panel.pixels().shape for panel in row.panels} == {(90, 135, 3)}
    np.testing.assert_array_equal(row.panels[0].pixels()[::3, ::3], image)
    np.testing.assert_array_equal(
        row.panels[3].pixels(), paint_tokens(image, stage_maps()[2], scale=3)
    )


def test_all_panels_appear_unchanged_on_the_sheet_and_do_not_overlap():
    rng = np.random.default_rng(0)
    rows, shapes = [], [(200, 30), (20, 300), (64, 64)]
    for height, width in shapes:
        pictures = [rng.integers(0, 200, (height, width, 3), dtype=np.uint8) for _ in range(3)]
        rows.append(Row(tuple(Panel(picture, "stage 1: 3136 tokens") for picture in pictures)))
    sheet = contact_sheet(rows)
    found = []
    for row in rows:
        for panel in row.panels:
            h, w, _ = panel.picture.shape
            windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (1, w))[:, :, 0]
            top, left = np.argwhere((windows == panel.picture[0, :, 0]).all(-1))[0]
            np.testing.assert_array_equal(sheet[top : top + h, left : left + w], panel.picture)
            found.append((top, left, top + h, left + w))
    for a in range(len(found)):
        for b in range(a):
            one, two = found[a], found[b]
            apart = one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]
            assert apart, (one, two)


def test_captions_are_drawn_below_and_stay_inside_their_column():
    picture = np.full((40, 100, 3), 200, np.uint8)
    silent = contact_sheet([Row((Panel(picture, ""),))])
    long = contact_sheet([Row((Panel(picture, "IMG_20261122_a-very-long-file-name.jpeg"),))])
    assert silent.shape == long.shape
    changed = np.argwhere((silent != long).any(-1))
    assert len(changed) > 50
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    assert top >= 52
    assert left >= 12
    assert right < 112
    assert bottom < silent.shape[0]


def test_an_empty_sheet_is_refused():
    for rows in ([], [Row(())]):
        with pytest.raises(UserError, match="at least one"):
            contact_sheet(rows)


if __name__ == "__main__":
    from tcformer.viz import write_png

    for mark in test_golden_pictures.pytestmark:
        for name, options in mark.args[1]:
            panels = [paint_tokens(procedural_scene(), cells, **options) for cells in stage_maps()]
            write_png(GOLDEN / f"{name}.png", np.concatenate(panels, axis=1))

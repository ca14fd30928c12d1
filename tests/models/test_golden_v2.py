"""Local CTM's numbers: partitions exactly, features within the tolerance they came with."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import golden
import tcformer
from tcformer.ops import cluster_windows, merge_tokens
from tcformer.ops.local import cut, nested_grids, usable_grids
from tcformer.tokens import Tokens, grid_layout

FOLDER = Path(__file__).parents[1] / "golden" / "v2"
TOLERANCE = 2e-5


@cache
def values(name):
    with np.load(FOLDER / f"{name}.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("case", ["div", "pad_14x18", "pad_15x13", "div842", "rect"])
def test_clustering_and_merging_alone(case):
    stored = values("local_ctm")
    grids = list(zip(stored[f"{case}/nh"].tolist(), stored[f"{case}/nw"].tolist(), strict=True))
    layout = grid_layout(2, tuple(stored[f"{case}/grid"].tolist()), torch.device("cpu"))
    for boundary in (1, 2, 3):

        def of(name, prefix=f"{case}/ctm{boundary}/"):
            return torch.tensor(stored[prefix + name])

        x = of("x")
        num_kept = -(-layout.num_tokens // 4)
        usable = usable_grids(layout, nested_grids(grids[boundary - 1 :]), num_kept)
        assert usable[0] == grids[boundary - 1]
        windows = cut(layout, usable)
        each = num_kept // windows.num_windows
        found = cluster_windows(x, windows, each).assignment
        padded = f"{case}/ctm{boundary}/idx_cluster_padcols_excluded" in stored
        expected = of("idx_cluster_padcols_excluded" if padded else "idx_cluster").long()
        assert torch.equal(found // each, expected // each)  # the part decides the range
        np.testing.assert_array_equal(
            golden.by_first_appearance(found.numpy()),
            golden.by_first_appearance(expected.numpy()),
        )
        # Merging, with the labels imposed: everything but clustering.
        labels = of("idx_cluster").long()
        count = each * windows.num_windows
        merged, layout = merge_tokens(Tokens(x, layout), labels, count, log_weight=of("score"))
        torch.testing.assert_close(merged, of("merged"), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(
            layout.cell_weight, of("agg_weight").squeeze(), rtol=0, atol=TOLERANCE
        )
        assert torch.equal(layout.cell_to_token, of("idx_token").long())
        layout = layout._replace(part_grids=usable)


@pytest.mark.parametrize("case", ["div", "pad_14x18", "pad_15x13", "div842", "rect"])
def test_the_order_of_the_cells(case):
    stored = values("local_ctm")
    height, width = stored[f"{case}/grid"].tolist()
    grids = list(zip(stored[f"{case}/nh"].tolist(), stored[f"{case}/nw"].tolist(), strict=True))
    layout = grid_layout(1, (height, width), torch.device("cpu"))
    order = cut(layout, nested_grids(grids)).order.numpy()
    rows, columns = grids[0]
    top, left = -height % rows // 2, -width % columns // 2
    padded = (order // width + top) * (width + -width % columns) + order % width + left
    real = order >= 0
    assert real.sum() == height * width
    np.testing.assert_array_equal(padded[real], stored[f"{case}/order"][real])


@pytest.mark.parametrize("case", ["std/local", "fan/local", "fan/local_200x168_padcol"])
@torch.no_grad()
def test_the_whole_backbone(case):
    stored = values("backbone_light")
    pictures = torch.tensor(stored["image_200x168" if "200" in case else "image"])
    model = golden.fill(tcformer.create_model("tcformerv2_light"), case[:3]).eval()
    stages = model.forward_tokens(golden.normalize(pictures.permute(0, 2, 3, 1).numpy()))
    for number, (x, layout) in enumerate(stages[1:], 2):

        def of(name, prefix=f"{case}/stage{number}/"):
            return stored.get(prefix + name)

        assert list(layout.map_size) == of("map_size").tolist()
        cells, expected = layout.cell_to_token.numpy(), of("idx_token").astype(np.int64)
        np.testing.assert_array_equal(
            golden.by_first_appearance(cells), golden.by_first_appearance(expected)
        )
        np.testing.assert_allclose(x.mean(1), of("feature_mean"), rtol=0, atol=TOLERANCE)

        def per_cell(array, labels):
            return np.take_along_axis(np.asarray(array), labels, axis=1)

        for name, ours in (
            ("token_mean", x.mean(2)),
            ("token_std", x.std(2, correction=0)),
            ("x_image0", x[0].T),
        ):
            if (theirs := of(name)) is not None:
                one = name == "x_image0"
                theirs = theirs.T if one else theirs
                np.testing.assert_allclose(
                    per_cell(ours, cells[:1].repeat(len(ours), 0) if one else cells),
                    per_cell(theirs, expected[:1].repeat(len(ours), 0) if one else expected),
                    rtol=0,
                    atol=TOLERANCE,
                )
        if (weight := of("agg_weight_image0")) is not None:
            np.testing.assert_allclose(layout.cell_weight[0], weight, rtol=0, atol=TOLERANCE)

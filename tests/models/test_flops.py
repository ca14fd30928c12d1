"""The published accounting, to every digit of the published-style table."""

import contextlib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tcformer.models.flops import executed_flops, geometry, published_flops
from tcformer.ops import attend, dpc_knn
from tcformer.ops.dispatch import plain_pytorch
from tcformer.zoo import create_model

SIZES = [(224, 224), (256, 192), (384, 288)]

# GFLOPs at the three sizes: the specification's table, which a counter of multiply-adds attached
# to the published code gave for a classifier of 1000 classes.
TABLE = {
    "tcformer_light": (3.8405, 3.7309, 12.6092),
    "tcformer": (5.8317, 5.6802, 17.1742),
    "tcformer_large": (12.1489, 11.8650, 31.5447),
    "tcformerv2_light": (2.5032, 2.4476, 6.1124),
    "tcformerv2_base": (4.4944, 4.3968, 10.6774),
    "tcformerv2_large": (10.8116, 10.5817, 25.0480),
}
CLUSTERING = (1.4864, 1.4264, 7.2190)
CLUSTERING_V2_224 = 0.1491


@pytest.fixture(scope="module")
def sizes():
    with torch.device("meta"):  # only shapes are read
        return {name: geometry(create_model(name)) for name in TABLE}


@pytest.mark.parametrize("name", TABLE)
def test_published_table(sizes, name):
    for column, size in enumerate(SIZES):
        parts = published_flops(sizes[name], *size)
        assert round(sum(parts.values()) / 1e9, 4) == TABLE[name][column]
        clustering = sum(count for part, count in parts.items() if part.startswith("cluster"))
        if name.startswith("tcformerv2"):
            assert column > 0 or round(clustering / 1e9, 4) == CLUSTERING_V2_224
        else:
            assert round(clustering / 1e9, 4) == CLUSTERING[column]
    assert all(count > 0 for count in published_flops(sizes[name], 16, 16).values())


def test_geometry_reads_what_was_asked_for():
    with torch.device("meta"):
        model = create_model("tcformer_nano", num_classes=7, in_chans=5)
    sizes = geometry(model)
    assert sizes == geometry(model.state_dict())
    assert sizes.in_chans == 5
    assert sizes.classes == 7
    assert [stage.channels for stage in sizes.stages] == [32, 64, 160, 256]
    assert [stage.depth for stage in sizes.stages] == [2, 2, 2, 2]
    assert [stage.reduction for stage in sizes.stages] == [8, 4, 2, 1]
    assert [stage.hidden for stage in sizes.stages] == [256, 512, 640, 1024]


def test_options_of_the_merges_are_charged():
    def cost(**options):
        with torch.device("meta"):
            sizes = geometry(create_model("tcformerv2_nano", **options))
        return published_flops(sizes, 64, 64)

    usual = cost()
    assert cost(keep_ratio=0.5)["block2"] > usual["block2"]
    assert cost(num_clusters=(64, 16, 4)) == usual
    assert cost(k=9)["cluster1"] == usual["cluster1"] + 4 * 256
    assert cost(part_grids=(2, 2, 1))["cluster1"] > usual["cluster1"]
    # On 16 cells the finest grid cannot be used twice: 4 tokens are left, and 2x2 gives none each.
    small = [geometry(create_model(f"tcformer{v}_nano")) for v in ("", "v2")]
    one, two = (published_flops(sizes, 16, 16) for sizes in small)
    assert two["cluster1"] < one["cluster1"]
    assert two["cluster2"] == one["cluster2"]


def test_executed_counts_one_image_of_a_known_network():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed1 = nn.Module()
            self.patch_embed1.proj = nn.Conv2d(3, 4, 4, stride=4)
            self.head = nn.Linear(4, 2)

        def forward(self, images):
            return self.head(self.patch_embed1.proj(images).mean((2, 3)))

    model = Net().train()
    assert executed_flops(model, 8, 12) == 4 * (3 * 4 * 4) * (2 * 3) + 4 * 2
    assert model.training


@pytest.mark.parametrize("name", ["tcformer_nano", "tcformerv2_nano"])
def test_the_counter_of_pytorch_says_the_same_around_a_model(name):
    model = create_model(name, num_classes=10)
    executed = 2 * executed_flops(model, 64, 48)
    images = torch.randn(2, 3, 64, 48)
    forward, both = set(), set()
    for native in (True, False):
        way = contextlib.nullcontext() if native else plain_pytorch()
        with way, torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(images)
        forward.add(counter.get_total_flops())
        way = contextlib.nullcontext() if native else plain_pytorch()
        with way, FlopCounterMode(display=False) as counter:
            logits = model.train()(images)
            forward.add(counter.get_total_flops())
            logits.sum().backward()
        both.add(counter.get_total_flops())
    assert forward == {2 * executed}
    assert len(both) == 1
    # Clustering has no gradient; of everything else there are two products more, or nearly so.
    trained = executed - counted_for_clustering(model)
    assert 2 * trained < both.pop() / 2 - executed + trained * 0.2 < 2.4 * trained


def counted_for_clustering(model):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 64, 48))
    return counter.get_flop_counts()["Global"][torch.ops.tcformer.dpc_knn]


@pytest.mark.parametrize("impl", ["auto", "eager", "reference"])
def test_clustering_counts_what_the_page_says_whatever_runs(impl):
    x, mask = torch.randn(3, 20, 8), torch.ones(3, 20, dtype=torch.bool)
    expected = dpc_knn(x, 5, 3, mask=mask, impl=impl)
    with FlopCounterMode(display=False) as counter:
        found = dpc_knn(x, 5, 3, mask=mask, impl=impl)
    assert counter.get_total_flops() == 2 * 3 * 20 * (20 + 5) * 8
    assert torch.equal(found.assignment, expected.assignment)
    assert torch.equal(found.centers, expected.centers)
    torch.library.opcheck(torch.ops.tcformer.dpc_knn.default, (x, 5, 3, mask, None, 0.0, "eager"))


def test_attention_counts_on_a_cpu_as_well():
    q, k = torch.randn(2, 3, 10, 8), torch.randn(2, 3, 7, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        attend(q, k, k, bias=torch.zeros(2, 7))
    assert counter.get_total_flops() == 4 * 2 * 3 * 10 * 7 * 8

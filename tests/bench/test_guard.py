"""Nothing has become much slower: ratios only, of the quickest of several turns, wide margins.

Absolute times say more about the machine than about the code, and so would a narrow margin.
"""

import pytest
import torch

from tcformer.bench import inputs, models, ops
from tcformer.bench.models import Setting
from tcformer.ops import cases
from tcformer.runtime import timing

CPU = torch.device("cpu")

SLOWER_THAN_PLAIN = 1.5
"""A special implementation that is slower than plain PyTorch by more has no reason to exist."""

SLOWER_THAN_PVT = 3.0
"""tcformer_light over pvt_v2_b1 at 128 px, batch 1, one thread, plain PyTorch: measured 1.7."""


def quickest(steps, rounds=7):
    times = timing.interleaved(steps, device=CPU, rounds=rounds, warmup=1, turn=0.0)
    return {name: min(seconds) for name, seconds in times.items()}


@pytest.fixture(scope="module")
def boundaries():
    return ops.boundaries(1, 160, device=CPU)


NOTHING_FAST = pytest.mark.skip(reason="only plain PyTorch runs here")

# A Triton kernel on a CPU runs in an interpreter, for its logic; "export" is for exported graphs
# and never chosen to be fast.
FAST = sorted(
    {
        (op, impl)
        for op, impl in cases.implementations()
        if impl not in ("eager", "triton", "export") and op in ops.NAMES
    }
)


@pytest.mark.parametrize(("op", "impl"), FAST or [pytest.param("", "", marks=NOTHING_FAST)])
def test_no_implementation_is_slower_than_plain_pytorch(op, impl, boundaries):
    for case in ops.cases([op], boundaries[:1], "forward", with_published=False):
        calls = {name: case.calls[name] for name in ("eager", impl)}
        found = quickest({name: lambda _, c=call: c() for name, call in calls.items()})
        assert found[impl] <= SLOWER_THAN_PLAIN * found["eager"], case.place


def test_the_model_beside_a_pvt_of_its_size():
    setting = Setting(CPU, size=128)
    images = inputs.batches(1, 128, device=CPU)
    names = ("tcformer_light", "pvt_v2_b1")
    found = quickest({n: models.prepare(models.parse(n), setting, images).step for n in names})
    assert found["tcformer_light"] <= SLOWER_THAN_PVT * found["pvt_v2_b1"]


def test_the_model_beside_the_published_style():
    setting = Setting(CPU, size=224)
    images = inputs.batches(1, 224, device=CPU)
    names = ("tcformer_nano", "tcformer_nano+published")
    found = quickest(
        {n: models.prepare(models.parse(n), setting, images).step for n in names}, rounds=4
    )
    # Measured: 0.15 with the C++ kernels, 0.2 without.
    assert found["tcformer_nano"] <= 0.9 * found["tcformer_nano+published"]

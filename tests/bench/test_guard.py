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


def quickest(steps, rounds=4):
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
        steps = {name: lambda _, call=call: call() for name, call in calls.items()}
        for _ in range(5):  # another process may have taken the turns of one of them
            found = quickest(steps)
            if found[impl] <= SLOWER_THAN_PLAIN * found["eager"]:
                break
        assert found[impl] <= SLOWER_THAN_PLAIN * found["eager"], case.place


def test_the_model_beside_the_baseline_and_the_published_style():
    ours, published, pvt = "tcformer_nano", "tcformer_nano+published", "pvt_v2_b0"
    setting = Setting(CPU, size=160)
    images = inputs.batches(1, 160, device=CPU)
    names = (ours, published, pvt)
    found = quickest({n: models.prepare(models.parse(n), setting, images).step for n in names})
    assert found[ours] <= 3 * found[pvt]
    assert found[ours] <= 0.9 * found[published]

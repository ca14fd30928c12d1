"""The published models' numbers: partitions exactly, everything else within stated tolerances."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import golden
import tcformer
from tcformer.ops import csrc
from tcformer.ops.dispatch import plain_pytorch, unsupported_reason

TOLERANCE = 5e-4


@pytest.fixture(scope="module", params=["tcformer_light", "tcformer"])
def model(request):
    return golden.fill(tcformer.create_model(request.param)).eval(), request.param


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", ["p", "q"])
def test_forward(model, case, threads):
    net, name = model
    expected = {
        key.removeprefix(f"{name}/{case}/"): value
        for key, value in golden.values().items()
        if key.startswith(f"{name}/{case}/")
    }
    with torch.no_grad():
        stages = net.forward_tokens(golden.normalize(golden.values()[f"images/{case}"]))
        logits = net.forward_head(stages[-1].x)
    for number, (x, layout) in enumerate(stages, 1):
        cells = layout.cell_to_token
        feature = x.gather(1, cells.unsqueeze(-1).expand(-1, -1, x.shape[-1])).mean(1)
        stage = f"stage{number}"
        np.testing.assert_allclose(
            feature, expected[f"{stage}/cell_feature_mean"], rtol=0, atol=TOLERANCE
        )
        if number > 1:
            partition = golden.by_first_appearance(cells.numpy())
            np.testing.assert_array_equal(partition, expected[f"{stage}/cell_to_token"])
            np.testing.assert_allclose(
                layout.cell_weight, expected[f"{stage}/cell_weight"], rtol=0, atol=TOLERANCE
            )
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=TOLERANCE)


def test_backward(model):
    net, name = model
    net.zero_grad()
    images = golden.normalize(golden.values()["images/p"])
    loss = F.cross_entropy(net(images), torch.arange(len(images)))
    loss.backward()
    expected = np.sort(golden.values()[f"{name}/p/grad_norms"])
    norms = np.sort([p.grad.norm().item() for p in net.parameters()])
    assert loss.item() == pytest.approx(float(golden.values()[f"{name}/p/loss"]), abs=TOLERANCE)
    np.testing.assert_allclose(norms, expected, rtol=0, atol=1e-3 * expected.max())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tcformer_light", 14_231_659), ("tcformer", 25_594_731), ("tcformer_large", 62_818_923)],
)
def test_state_dict_is_the_published_one(name, parameters):
    with torch.device("meta"):
        state = tcformer.create_model(name).state_dict()
    expected = golden.key_shapes(name)
    assert {key: list(value.shape) for key, value in state.items()} == expected
    assert list(state) == list(expected)
    assert sum(value.numel() for value in state.values()) == parameters


FOLLOWS = 1e-3
"""What the origin of the numbers asks for; docs/results.md says how much less it is."""

SAME_ARITHMETIC = 1e-5
"""Of float64, where next to nothing is rounded. Rounding the pictures to float32 moves as much."""

one_thread = pytest.mark.parametrize("threads", [1], indirect=True)
two_threads = pytest.mark.parametrize("threads", [2], indirect=True)


def assert_follows(dtype=torch.float32, atol=FOLLOWS):
    model = golden.fill(tcformer.create_model("tcformer_light", num_classes=4)).to(dtype)
    expected = golden.training_losses(str(dtype).removeprefix("torch."))
    assert len(expected) == 40
    np.testing.assert_allclose(list(golden.train(model, 40)), expected, rtol=0, atol=atol)


@one_thread
def test_training_follows_the_published_code(threads):
    assert_follows()


@pytest.mark.slow
@two_threads
def test_training_follows_on_two_threads(threads):
    assert_follows()


@pytest.fixture
def without_native_kernels(monkeypatch):
    monkeypatch.setenv("TCFORMER_NATIVE", "0")
    csrc._load.cache_clear()
    yield
    monkeypatch.undo()
    csrc._load.cache_clear()


@pytest.mark.slow
@one_thread
def test_training_follows_without_native_kernels(threads, without_native_kernels):
    assert unsupported_reason("cpp", "cpu") == "TCFORMER_NATIVE is 0 in the environment"
    assert_follows()


@pytest.mark.slow
@one_thread
def test_training_follows_in_plain_pytorch(threads):
    with plain_pytorch():
        assert_follows()


@pytest.mark.slow
@one_thread
def test_training_in_float64_is_the_same_arithmetic(threads):
    assert_follows(torch.float64, SAME_ARITHMETIC)

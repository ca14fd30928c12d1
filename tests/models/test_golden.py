"""The published models' numbers: partitions exactly, everything else within stated tolerances."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import golden
import tcformer

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
        stages = net.forward_tokens(golden.normalise(golden.values()[f"images/{case}"]))
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
    images = golden.normalise(golden.values()["images/p"])
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


def train(steps):
    model = golden.fill(tcformer.create_model("tcformer_light", num_classes=4)).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    losses = []
    for step in range(steps):
        images, labels = golden.training_batch(step)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_first_training_steps():
    np.testing.assert_allclose(train(6), golden.training_losses()[:6], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_forty_training_steps(threads):
    np.testing.assert_allclose(train(40), golden.training_losses(), rtol=0, atol=1e-3)

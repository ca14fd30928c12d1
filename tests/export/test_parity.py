import numpy as np
import pytest
import torch

from tcformer.errors import UserError
from tcformer.export import TOLERANCE, Parity
from tcformer.export.contract import ExportedNetwork
from tcformer.export.parity import batches, compare


def runner_of(loaded, contract, **changes):
    """PyTorch itself as the exported model, with what `changes` does to single outputs."""
    module = ExportedNetwork(loaded.network, contract)

    def run(images):
        with torch.inference_mode():
            found = [value.numpy().copy() for value in module(torch.from_numpy(images))]
        named = dict(zip(contract.output_names, found, strict=True))
        for name, change in changes.items():
            named[name] = change(named[name])
        return named

    return run


def compared(loaded, contract, images, **changes):
    found = Parity()
    compare(loaded.network, contract, runner_of(loaded, contract, **changes), images, found)
    return found


def one_more(value):
    value.flat[5] += 1
    return value


def test_a_model_agrees_with_itself(loaded, contract, images):
    found = compared(loaded, contract, images)
    assert found.problem() is None
    assert found.batches == [3]
    assert found.cells == [3 * 8 * 12] * 4
    assert set(found.difference) == {"logits", *(f"features{n}" for n in (1, 2, 3, 4))}
    assert "stage 4: equal" in "\n".join(found.lines())


def test_one_cell_of_another_token_is_too_many(loaded, contract, images):
    found = compared(loaded, contract, images, tokens3=one_more)
    assert found.unequal == [0, 0, 1, 0]
    assert found.images_unequal == 1
    assert "1 of 3 images are clustered differently, 1 of 1152 cells" in found.problem()
    assert "stage 3: 1 of 288 cells differ" in "\n".join(found.lines())


@pytest.mark.parametrize("output", ["logits", "features2"])
@pytest.mark.parametrize("wrong", [2.0, -2.0, float("nan"), float("inf")])
def test_numbers_beyond_the_tolerance_are_a_problem(loaded, contract, images, output, wrong):
    right = compared(loaded, contract, images)

    def change(value):
        value.flat[-1] += wrong * TOLERANCE * right.largest[output]
        return value

    found = compared(loaded, contract, images, **{output: change})
    assert f"{output} differs by" in found.problem()


def test_a_nan_that_the_next_batch_does_not_have_is_remembered(loaded, contract, images):
    found = Parity()
    bad = runner_of(loaded, contract, logits=lambda value: value * np.nan)
    compare(loaded.network, contract, bad, images[:1], found)
    compare(loaded.network, contract, runner_of(loaded, contract), images, found)
    assert "logits differs by nan" in found.problem()


@pytest.mark.parametrize(
    "change", [lambda v: v[:, :5], lambda v: v.astype(np.float64), lambda v: v[:1]]
)
def test_another_shape_or_type_is_refused(loaded, contract, images, change):
    with pytest.raises(UserError, match="gives logits as"):
        compared(loaded, contract, images, logits=change)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 16, 17])
def test_batches_are_one_image_and_more_than_one(count):
    images = np.arange(count)
    parts = list(batches(images))
    assert len(parts[0]) == 1
    assert all(1 < len(part) <= 9 for part in parts[1:])
    assert set(np.concatenate(parts[1:])) == set(images)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_the_first_images_come_alone_and_again_in_batches(count):
    parts = [list(part) for part in batches(np.arange(count), alone=4)]
    assert parts[: min(count, 4)] == [[number] for number in range(min(count, 4))]
    assert all(len(part) > 1 for part in parts[min(count, 4) :])

"""Looking into a running network changes nothing and sees what it computes with."""

import threading

import pytest
import torch

from tcformer.errors import UserError
from tcformer.models.trace import trace
from tcformer.viz import contributions, parents
from tcformer.zoo import create_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = create_model("tcformer_nano").eval()
    for stage in (1, 2, 3):  # scores that differ clearly
        torch.nn.init.normal_(getattr(model, f"ctm{stage}").score.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 70, 100, generator=torch.Generator().manual_seed(1))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_tokens_are_those_of_an_ordinary_run_and_no_hook_is_left(model, images):
    with torch.inference_mode():
        plain = model.forward_tokens(images)
    traced = trace(model, images)
    for one, other in zip(plain, traced.stages, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.layout.cell_to_token, other.layout.cell_to_token)
    assert hooks(model) == 0


@pytest.mark.parametrize("block", [None, 1])
def test_the_weights_of_all_heads_make_the_output_of_the_attention(model, images, block):
    traced = trace(model, images, block=block)
    assert traced.blocks == ((2, 2, 2, 2) if block is None else (1, 1, 1, 1))
    for seen in traced.attended:
        layer, heads = seen.layer, seen.layer.num_heads
        with torch.inference_mode():
            output = layer(seen.queries, seen.keys, seen.bias)
            value = layer.kv(seen.keys)[1][:, layer.q.out_features :]
            value = value.view(len(value), heads, -1)
            for token in (0, seen.queries.shape[1] - 1):
                each = [seen.weights(token, head=h + 1, image=1) for h in range(heads)]
                mixed = torch.cat([w @ value[:, h] for h, w in enumerate(each)])
                torch.testing.assert_close(layer.proj(mixed), output[1, token])
                mean = seen.weights(token, image=1)
                torch.testing.assert_close(mean, torch.stack(each).mean(0))
                assert mean.sum().item() == pytest.approx(1, abs=1e-5)


def test_every_cell_knows_its_key(model, images):
    last, first = trace(model, images), trace(model, images, block=1)
    assert [seen.over for seen in last.attended] == ["windows"] * 3 + ["tokens"]
    assert [seen.over for seen in first.attended] == ["windows"] * 3 + ["earlier tokens"]
    assert torch.equal(last.attended[3].cell_to_key, last.stages[3].layout.cell_to_token)
    assert torch.equal(first.attended[3].cell_to_key, first.stages[2].layout.cell_to_token)
    for seen in (*last.attended, *first.attended):
        assert seen.cell_to_key.shape == (2, 18 * 25)
        assert seen.cell_to_key.max() == seen.keys.shape[1] - 1
    # Stage 1: windows of 8 x 8 cells on 18 x 25; the rows and columns that are left have no key.
    grid = last.attended[0].cell_to_key[0].view(18, 25)
    assert (grid[16:] == -1).all()
    assert (grid[:, 24:] == -1).all()
    assert grid[:8, :8].unique().tolist() == [0]
    assert grid[8:16, 16:24].unique().tolist() == [5]


def test_scores_are_the_shares_in_merging(model, images):
    traced = trace(model, images)
    assert [score.shape[1] for score in traced.scores] == [450, 113, 29]
    for before, score, after in zip(
        traced.stages[:-1], traced.scores, traced.stages[1:], strict=True
    ):
        cells, merged = before.layout.cell_to_token[1], after.layout.cell_to_token[1]
        weight = contributions(cells, merged, after.layout.cell_weight[1])
        parent = torch.from_numpy(parents(cells, merged))
        power = score[1].exp()
        total = torch.zeros(after.layout.num_tokens).index_add(0, parent, power)
        # Not to the last digit: a merge adds 1e-6 to its sums.
        found = torch.from_numpy(weight).float()
        torch.testing.assert_close(found, power / total[parent], rtol=5e-3, atol=1e-5)


def test_other_threads_are_not_heard(model, images):
    stop, runs = threading.Event(), []

    def others():
        while not stop.is_set():
            with torch.inference_mode():
                runs.append(model.forward_tokens(images[:1]))

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for _ in range(3):
            traced = trace(model, images)
            assert [len(score) for score in traced.scores] == [2, 2, 2]
            assert [len(seen.queries) for seen in traced.attended] == [2, 2, 2, 2]
    finally:
        stop.set()
        thread.join()
    assert runs


def test_blocks_and_heads_that_are_not_there_are_refused(model, images):
    with pytest.raises(UserError, match="no block 3: the stages of this model have 2, 2, 2, 2"):
        trace(model, images, block=3)
    with pytest.raises(UserError, match="no head 2: this block has 1"):
        trace(model, images).attended[0].weights(0, head=2)


def test_a_network_of_fewer_stages_is_traced_too(images):
    short = create_model("tcformer_nano").eval()
    short.prune_intermediate_layers(2)  # the last two by default would be all four
    traced = trace(short, images)
    assert len(traced.attended) == len(traced.stages) == len(traced.scores) + 1

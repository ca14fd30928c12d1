from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.data.sampler import ResumableSampler, SteppedSampler, exact_eval_indices
from tcformer.errors import UserError


def batches(keys, size):
    keys = list(keys)
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def global_batches(length, global_batch, world, **options):
    """The set of keys of each global batch, put together from all processes."""
    size = global_batch // world
    parts = [
        batches(
            ResumableSampler(length, batch_size=size, world_size=world, rank=r, **options), size
        )
        for r in range(world)
    ]
    assert len({len(p) for p in parts}) == 1
    return [sorted(k for part in group for k in part) for group in zip(*parts, strict=True)]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("repeats", [1, 3])
def test_global_batches_do_not_depend_on_the_number_of_processes(drop_last, repeats):
    options = {"seed": 3, "epoch": 2, "drop_last": drop_last, "repeats": repeats}
    one = global_batches(47, 12, 1, **options)
    assert len(one) == (3 if drop_last else 4)
    assert all(global_batches(47, 12, w, **options) == one for w in (2, 3, 4, 6))


def test_the_order_is_the_same_for_ever():
    """A checkpoint of the middle of an epoch is worth little if the next version has another."""

    def order(seed, epoch):
        return [i for _, i in ResumableSampler(10, batch_size=2, seed=seed, epoch=epoch)]

    assert order(7, 3) == [3, 8, 4, 0, 5, 9, 7, 1, 6, 2]
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, -1) for epoch in (0, 1)}) == 6
    unshuffled = ResumableSampler(10, batch_size=2, shuffle=False)
    assert [i for _, i in unshuffled] == list(range(10))


@settings(max_examples=40)
@given(
    length=st.integers(1, 60),
    batch=st.integers(1, 7),
    world=st.integers(1, 5),
    repeats=st.integers(1, 4),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_resuming_yields_the_rest_of_the_epoch(length, batch, world, repeats, drop_last, data):
    if drop_last and length < batch * world:
        with pytest.raises(UserError, match=f"has {length} images"):
            ResumableSampler(length, batch_size=batch, world_size=world)
        return
    options = {
        "batch_size": batch,
        "world_size": world,
        "repeats": repeats,
        "drop_last": drop_last,
        "seed": 1,
    }
    start = data.draw(st.integers(0, ResumableSampler(length, **options).batches_per_epoch))
    counts = set()
    for rank in range(world):
        whole = ResumableSampler(length, rank=rank, epoch=4, **options)
        rest = ResumableSampler(length, rank=rank, epoch=4, start_batch=start, **options)
        assert list(rest) == list(whole)[start * batch :]
        assert len(rest) == len(list(rest))
        assert len(whole) == len(list(whole))
        counts.add(len(batches(whole, batch)))
        assert len(batches(whole, batch)) == whole.batches_per_epoch
    assert len(counts) == 1, "every process must take the same number of steps"


def test_set_epoch_moves_a_used_sampler():
    sampler = ResumableSampler(20, batch_size=4, seed=5)
    list(sampler)
    sampler.set_epoch(3, 2)
    assert list(sampler) == list(ResumableSampler(20, batch_size=4, seed=5, epoch=3, start_batch=2))
    sampler.set_epoch(3)
    assert len(sampler) == 20
    with pytest.raises(UserError, match="has 5 batches"):
        sampler.set_epoch(3, 6)


def test_repeated_augmentation_shows_three_versions_in_one_global_batch_on_other_processes():
    length, world, size = 48, 3, 4
    seen = Counter()
    for rank in range(world):
        sampler = ResumableSampler(length, batch_size=size, world_size=world, rank=rank, repeats=3)
        keys = list(sampler)
        assert len(keys) == length // world
        # three processes, three neighbours: no process sees two versions of an image
        assert len({i for _, i, _ in keys}) == len(keys)
        seen.update((i, repeat) for _, i, repeat in keys)
    images = {i for i, _ in seen}
    assert len(images) == length // 3
    assert seen == Counter({(i, r): 1 for i in images for r in range(3)})
    groups = global_batches(length, 12, 3, repeats=3)
    assert all(len({i for _, i, _ in g}) == 4 for g in groups)


def test_keeping_the_last_batch_gives_every_process_an_image():
    parts = [
        list(ResumableSampler(9, batch_size=2, world_size=4, rank=r, drop_last=False))
        for r in range(4)
    ]
    assert [len(p) for p in parts] == [3, 3, 3, 3]
    assert {i for part in parts for _, i in part} == set(range(9))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 1, "length": 0}, "no images"),
        ({"batch_size": 2, "rank": 1}, "rank 1"),
        ({"batch_size": 4, "world_size": 3}, "lower --batch-size to 2"),
        ({"batch_size": 1, "world_size": 11}, "use fewer processes"),
        ({"batch_size": 2, "repeats": 0}, "repeats"),
        ({"batch_size": 2, "epoch": -1}, "epoch -1"),
    ],
)
def test_impossible_samplers_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        ResumableSampler(**{"length": 10, **options})


@settings(max_examples=40)
@given(length=st.integers(0, 100), batch=st.integers(1, 9), world=st.integers(1, 9))
def test_evaluation_covers_each_image_once_in_the_same_batches(length, batch, world):
    alone = exact_eval_indices(length, batch)
    assert alone == list(range(length))
    batches = []
    for rank in range(world):
        mine = exact_eval_indices(length, batch, world, rank)
        batches += [mine[i : i + batch] for i in range(0, len(mine), batch)]
    assert sorted(batches) == [alone[i : i + batch] for i in range(0, length, batch)]


def test_stepped_epochs_go_on_where_the_last_one_stopped():
    def keys(epoch, **share):
        sampler = SteppedSampler(10, steps=3, batch_size=2, seed=1, **share)
        sampler.set_epoch(epoch)
        return list(sampler)

    alone = {"world_size": 1, "rank": 0}
    stream = [key for epoch in range(5) for key in keys(epoch, **alone)]
    assert len(stream) == 30
    for number in range(3):
        part = stream[10 * number : 10 * number + 10]
        assert sorted(index for _, index, _ in part) == list(range(10))
        assert {n for _, _, n in part} == {number}
    assert [k[1] for k in stream[:10]] != [k[1] for k in stream[10:20]]
    halves = [keys(1, world_size=2, rank=r) for r in (0, 1)]
    assert len(halves[0]) == len(halves[1]) == 6
    whole = SteppedSampler(10, steps=3, batch_size=4, seed=1, **alone)
    whole.set_epoch(1)
    assert sorted(halves[0] + halves[1]) == sorted(whole)
    whole.set_epoch(1, 2)
    assert len(list(whole)) == len(whole) == 4

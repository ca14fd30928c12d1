import pickle
import random

import numpy as np
import pytest
import torch

from tcformer.data.seeding import SeededDataset, numpy_stream, preserved_rng, seed_words


class Draws:
    """An item is one draw from each generator."""

    classes = ("a",)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 4:
            raise RuntimeError("broken")
        return random.random(), np.random.rand(), torch.rand(()).item()


def globals_now():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_an_item_depends_on_its_key_alone_and_leaves_the_generators():
    data = SeededDataset(Draws(), seed=3)
    before = globals_now()
    first = data[(0, 1)]
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    random.random()
    assert data[(0, 1)] == first
    assert globals_now() != before
    moved = globals_now()
    data[(1, 2)]
    with pytest.raises(RuntimeError):
        data[(0, 4)]
    assert globals_now() == moved


def test_every_part_of_the_key_matters():
    keys = [(0, 0), (1, 0), (0, 1), (0, 0, 1), (0, 0, 2)]
    items = [SeededDataset(Draws(), seed=s)[k] for s in (0, 1) for k in keys]
    for generator in range(3):
        assert len({item[generator] for item in items}) == len(items)
    assert SeededDataset(Draws())[(0, 0, 0)] == SeededDataset(Draws())[(0, 0)]


def test_attributes_of_the_data_set_show_through_and_survive_pickling():
    data = pickle.loads(pickle.dumps(SeededDataset(Draws(), seed=2)))
    assert data.classes == ("a",)
    assert len(data) == 5
    assert not hasattr(data, "missing")


def test_numpy_alone_can_be_preserved():
    state = np.random.get_state()[1].tolist()
    python = random.getstate()
    with preserved_rng(numpy_only=True):
        np.random.seed(1)
        random.random()
    assert np.random.get_state()[1].tolist() == state
    assert random.getstate() != python


def test_streams_are_named_by_integers_of_any_sign_and_size():
    names = [(0,), (1,), (-1,), (2**70,), (1, 2), (2, 1)]
    assert len({tuple(seed_words(*n)) for n in names}) == len(names)
    assert numpy_stream(1, 2).randint(1 << 30) == numpy_stream(1, 2).randint(1 << 30)

"""One small network, traced once a process, for every test of exports."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tcformer.export import Contract
from tcformer.predict import Loaded, Preprocessing
from tcformer.zoo import create_model

SIZE = (32, 48)


def make_network(name="tcformer_nano", depths=(1, 1, 1, 1), **options):
    torch.manual_seed(1)
    model = create_model(name, num_classes=10, depths=depths, **options).eval()
    classes = tuple(f"thing {number}" for number in range(10))
    return Loaded(model, name, "classification", Preprocessing(32), classes)


@pytest.fixture(scope="session")
def network():
    return make_network


@pytest.fixture(scope="session")
def loaded():
    return make_network()


@pytest.fixture
def contract():
    return Contract(
        model="tcformer_nano",
        size=SIZE,
        input="normalised",
        outputs=("logits", "features", "tokens"),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        classes=tuple(f"thing {number}" for number in range(10)),
    )


@pytest.fixture
def backbone(loaded):
    return replace(loaded, classes=(), task="features")


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((3, 3, *SIZE)).astype(np.float32)

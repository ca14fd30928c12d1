"""Networks that the tests of several verbs share: untrained, in a file each."""

import pytest
import torch

from tcformer import create_model
from tcformer.runtime.distributed import World
from tcformer.tasks.pose.task import PoseTask
from tcformer.training.options import build
from tcformer.weights.metadata import save_weights

NAMES = ("lilac, grün", "red", '"<b>"')


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A classifier that answers "red" to everything, in places for sure and in places less so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = create_model("tcformer_nano", num_classes=3)
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([0.0, 3.0, 0.0]))
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_weights(network, path, {"classes": "\n".join(NAMES), "input_size": 32})
    return path


@pytest.fixture(scope="session")
def pose_weights(tmp_path_factory):
    """A network of stick figures, 32 px."""
    cfg = build(
        {"task": "pose", "data_set": "sticks", "model": "tcformer_nano", "crop_size": (32, 32),
         "neck_channels": 8, "neck_heads": 2, "device": "cpu", "eval": True}
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        task = PoseTask(cfg, World())
        # Peaks everywhere, so that there is something to draw.
        task.model.keypoint_head.final_layer.weight.data.normal_()
    path = tmp_path_factory.mktemp("pose") / "sticks.safetensors"
    task.save_weights(task.model.state_dict(), path)
    return path

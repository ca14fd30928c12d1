"""What the tests of every task ask of a run."""

import pytest

from tcformer.runtime.signals import interrupt
from tcformer.tasks.base import BaseTask
from tcformer.tasks.runner import run
from tcformer.training.loop import Interrupted


@pytest.fixture
def losses_of():
    """A function that runs a configuration and returns its losses.

    `stop_at` asks the run to stop while it computes that loss.
    """

    def losses(cfg, stop_at=None):
        seen = []
        real = BaseTask.loss

        def watched(self, model, batch):
            loss = real(self, model, batch)
            if len(seen) == stop_at:
                interrupt.request("SIGTERM")
            seen.append(loss.item())
            return loss

        interrupt.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BaseTask, "loss", watched)
            try:
                run(cfg)
            except Interrupted:
                assert stop_at is not None
        interrupt.clear()
        return seen

    return losses

"""Mixup and cutmix (timm's), with draws that belong to the batch and not to the process."""

from __future__ import annotations

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor
from torch.nn.functional import one_hot

from tcformer.data.seeding import STREAM_MIX, preserved_rng, seed_words
from tcformer.data.spec import MixSpec
from tcformer.errors import UserError


class Mixer:
    """Mix a batch with its own reversal and turn labels into smoothed soft targets.

    timm draws from NumPy's global generator; here it is seeded from (seed, epoch, batch, rank) for
    the call and put back, so a run that resumes at any batch mixes as if it had never stopped.
    """

    def __init__(self, spec: MixSpec, *, num_classes: int, seed: int = 0) -> None:
        self.spec, self.num_classes, self.seed = spec, num_classes, seed
        self._mixup = Mixup(
            mixup_alpha=spec.mixup,
            cutmix_alpha=spec.cutmix,
            cutmix_minmax=list(spec.cutmix_minmax) if spec.cutmix_minmax else None,
            prob=spec.mixup_prob,
            switch_prob=spec.mixup_switch_prob,
            mode=spec.mixup_mode,
            label_smoothing=spec.smoothing,
            num_classes=num_classes,
        )

    def __call__(
        self, images: Tensor, targets: Tensor, *, epoch: int, batch: int, rank: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W) in place; epoch, batch (of the epoch) and rank name the draws.

        Images are paired first with last, second with last but one, and so on. In a batch of odd
        size (an unreadable image was left out) the last image stays unmixed.

        Returns:
            The images, and (B, num_classes) float32 soft targets that sum to one.

        Raises:
            UserError: images too small for the `cutmix_minmax` given.
        """
        self._check_box(images)
        even = len(images) // 2 * 2
        parts = []
        if even:
            with preserved_rng(numpy_only=True):
                np.random.seed(seed_words(STREAM_MIX, self.seed, epoch, batch, rank))
                # images[:even] is a view: timm writes into the caller's tensor.
                _, soft = self._mixup(images[:even], targets[:even])
            parts.append(soft)
        if even < len(images):
            parts.append(self._smoothed(targets[even:]))
        return images, parts[0] if len(parts) == 1 else torch.cat(parts)

    def _smoothed(self, targets: Tensor) -> Tensor:
        hard = one_hot(targets, self.num_classes).float()
        return hard * (1 - self.spec.smoothing) + self.spec.smoothing / self.num_classes

    def _check_box(self, images: Tensor) -> None:
        if self.spec.cutmix_minmax is None:
            return
        low, high = self.spec.cutmix_minmax
        for side in images.shape[-2:]:
            if int(side * low) >= int(side * high):
                raise UserError(
                    f"--cutmix-minmax {low:g} {high:g} leaves no whole pixel to choose from on "
                    f"images of {side} px: widen the range."
                )


def build_mixer(spec: MixSpec, *, num_classes: int, seed: int = 0) -> Mixer | None:
    """A `Mixer`, or None when neither mixup nor cutmix is on (labels then stay hard)."""
    return Mixer(spec, num_classes=num_classes, seed=seed) if spec.active else None

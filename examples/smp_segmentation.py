"""segmentation-models-pytorch over a TCFormer: find shapes, pixel by pixel.

    python examples/smp_segmentation.py --decoder UPerNet

Any decoder of that library that takes maps at strides 4 to 32 works: FPN, UPerNet, Segformer ...
"""

from __future__ import annotations

import argparse

import torch

import tcformer  # noqa: F401 - registers the models with timm
from features_only import measure, train

try:
    import segmentation_models_pytorch as smp
except ImportError as error:
    raise SystemExit(
        f"error: this example needs {error.name}; install it with: pip install 'tcformer[dense]'"
    ) from None


def main() -> None:
    """Train, and print the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tcformer_light", help="a tcformer by its timm name")
    parser.add_argument("--decoder", default="FPN", help="a class of segmentation_models_pytorch")
    parser.add_argument("--steps", type=int, default=50, help="training steps of 8 pictures")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, pixels")
    options = parser.parse_args()
    torch.manual_seed(0)
    decoder = getattr(smp, options.decoder)
    model = decoder(f"tu-{options.model}", encoder_weights=None, classes=4)
    print(f"untrained: mean IoU {measure(model, options.size):.1f} %")
    found = train(model, steps=options.steps, size=options.size, lr=5e-4)
    print(f"trained: mean IoU {found:.1f} %")


if __name__ == "__main__":
    main()

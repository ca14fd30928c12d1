"""A trained network, ready to be used: weights, preprocessing and class names, from one call.

`show`, `predict`, `serve` and `export` all get their network from :func:`load`.
"""

from tcformer.inference.hub import push_to_hub, save_pretrained
from tcformer.inference.loading import DEFAULT_MODEL, Loaded, load
from tcformer.inference.pictures import Picture, read_picture
from tcformer.inference.predicting import Guess, Prediction, predict_each
from tcformer.inference.preprocess import Preprocessing

__all__ = [
    "DEFAULT_MODEL",
    "Guess",
    "Loaded",
    "Picture",
    "Prediction",
    "Preprocessing",
    "load",
    "predict_each",
    "push_to_hub",
    "read_picture",
    "save_pretrained",
]

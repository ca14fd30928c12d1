"""A trained network, ready to be used: weights, preprocessing and class names, from one call.

`show`, `predict`, `serve` and `export` all get their network from :func:`load`.
"""

from tcformer.inference.answers import Answer, Examined, examine, labelled_folder, match_classes
from tcformer.inference.confusion import Confusion, confusion_matrix, wilson
from tcformer.inference.hub import push_to_hub, save_pretrained
from tcformer.inference.loading import DEFAULT_MODEL, Loaded, load
from tcformer.inference.pictures import Picture, read_picture
from tcformer.inference.predicting import Guess, Prediction, predict_each
from tcformer.inference.preprocess import Preprocessing

__all__ = [
    "DEFAULT_MODEL",
    "Answer",
    "Confusion",
    "Examined",
    "Guess",
    "Loaded",
    "Picture",
    "Prediction",
    "Preprocessing",
    "confusion_matrix",
    "examine",
    "labelled_folder",
    "load",
    "match_classes",
    "predict_each",
    "push_to_hub",
    "read_picture",
    "save_pretrained",
    "wilson",
]

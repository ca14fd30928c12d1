"""A trained network, ready to be used: weights, preprocessing and class names, from one call.

`show`, `predict`, `serve` and `export` all get their network from :func:`load`.
"""

from tcformer.predict.answers import Answer, Examined, examine, labelled_folder, match_classes
from tcformer.predict.confusion import Confusion, confusion_matrix, wilson
from tcformer.predict.hub import push_to_hub, save_pretrained
from tcformer.predict.loaded import DEFAULT_MODEL, Loaded, load
from tcformer.predict.predict import Guess, Prediction, predict_each
from tcformer.predict.preprocess import Preprocessing
from tcformer.predict.sources import Picture, read_picture

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

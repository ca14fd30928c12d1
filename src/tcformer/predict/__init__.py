"""A trained network, ready to be used: weights, preprocessing and class names, from one call.

`show`, `predict`, `serve` and `export` all get their network from :func:`load`.
"""

from tcformer.images import read_picture
from tcformer.predict.confusion import Confusion, confusion_matrix, wilson
from tcformer.predict.evaluate import (
    LabeledPrediction,
    Report,
    evaluate,
    labeled_folder,
    match_classes,
)
from tcformer.predict.hub import push_to_hub, save_pretrained
from tcformer.predict.loaded import DEFAULT_MODEL, Loaded, load
from tcformer.predict.predict import Guess, Prediction, predict_each
from tcformer.predict.preprocess import Preprocessing
from tcformer.predict.sources import Picture

__all__ = [
    "DEFAULT_MODEL",
    "Confusion",
    "Guess",
    "LabeledPrediction",
    "Loaded",
    "Picture",
    "Prediction",
    "Preprocessing",
    "Report",
    "confusion_matrix",
    "evaluate",
    "labeled_folder",
    "load",
    "match_classes",
    "predict_each",
    "push_to_hub",
    "read_picture",
    "save_pretrained",
    "wilson",
]

examine, Examined, Answer = evaluate, Report, LabeledPrediction
labelled_folder = labeled_folder
"""Former names of these."""

"""A trained network, ready to be used: weights, preprocessing and class names, from one call.

`show`, `predict`, `serve` and `export` all get their network from :func:`load`.
"""

from tcformer.inference.loading import DEFAULT_MODEL, Loaded, load
from tcformer.inference.preprocess import Preprocessing

__all__ = ["DEFAULT_MODEL", "Loaded", "Preprocessing", "load"]

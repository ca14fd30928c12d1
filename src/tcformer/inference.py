"""The former name of `tcformer.predict`, for code that imports it: the same module twice named."""

import sys

from tcformer import predict
from tcformer.predict import pose

sys.modules[__name__] = predict
sys.modules[f"{__name__}.pose"] = pose

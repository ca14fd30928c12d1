"""The networks: stem, blocks, token merging, backbone, named variants, checkpoints."""

from tcformer.models.backbone import TCFormer
from tcformer.models.variants import VARIANTS, create_model

__all__ = ["VARIANTS", "TCFormer", "create_model"]

"""The networks: stem, blocks, token merging, backbone, neck, named variants, checkpoints."""

from tcformer.models.backbone import TCFormer
from tcformer.models.mta import MTA
from tcformer.models.variants import VARIANTS, create_model

__all__ = ["MTA", "VARIANTS", "TCFormer", "create_model"]

"""The networks: stem, blocks, token merging, backbone, neck, head, named variants, checkpoints."""

import timm  # noqa: F401 - whole, so that no other thread is in the middle of importing it

from tcformer.models.backbone import TCFormer
from tcformer.models.mta import MTA
from tcformer.models.semantic_fpn import SemanticFPN, SemanticFPNHead
from tcformer.models.variants import VARIANTS, create_model

__all__ = ["MTA", "VARIANTS", "SemanticFPN", "SemanticFPNHead", "TCFormer", "create_model"]

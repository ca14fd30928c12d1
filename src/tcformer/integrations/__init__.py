"""Bridges to other libraries that need more than a model's name.

Most need nothing: timm, segmentation-models-pytorch and transformers find the backbones by name
once ``tcformer`` is imported. :mod:`tcformer.integrations.torchvision` builds detectors over MTA.
"""

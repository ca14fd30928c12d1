"""Semantic segmentation: a class for each pixel, by a TCFormer under Semantic FPN."""

"""TCFormer: the Token Clustering Transformer for today's PyTorch."""

__version__ = "0.1.0.dev0"

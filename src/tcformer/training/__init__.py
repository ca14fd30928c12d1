"""tcformer.training"""

"""tcformer.ops"""

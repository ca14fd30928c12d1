"""tcformer.models"""

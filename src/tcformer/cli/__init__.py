"""tcformer.cli"""

"""tcformer.viz"""

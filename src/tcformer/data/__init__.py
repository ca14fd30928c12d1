"""tcformer.data"""

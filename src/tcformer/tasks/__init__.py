"""tcformer.tasks"""

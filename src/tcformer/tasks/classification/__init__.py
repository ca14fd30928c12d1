"""tcformer.tasks.classification"""

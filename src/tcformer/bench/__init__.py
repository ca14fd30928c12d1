"""Measure: models and ops side by side, the input pipeline, and the records of it.

Behind `tcformer bench` (and `make bench`). What is reported first is always a ratio of things that
took turns in one process; milliseconds belong to one machine on one day. Nothing in the network
imports this package.
"""

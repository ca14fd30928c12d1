"""Processes: how they start, meet, compute, fail and stop, and what machine they run on."""

"""Seeded makers of hostile input, each with the real code that has to read it."""

"""`tcformer train CONFIG [options]`."""

from __future__ import annotations

HELP = "train a classifier from a configuration file"


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    from tcformer.tasks.classification.command import main as run

    return run(argv, verb="train")

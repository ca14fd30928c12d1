"""`tcformer train CONFIG [options]`."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    from tcformer.tasks.command import main as run

    return run(argv, verb="train")

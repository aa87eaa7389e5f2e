"""What there is to say about a data set: facts, warnings and problems, printed as they are found."""

from __future__ import annotations

from utils.console.terminal import show


class Report:
    """Collects what there is to say: facts, warnings, and problems that make training or testing meaningless."""

    def __init__(self) -> None:
        self.problems = 0

    def fact(self, text: str) -> None:
        """Something to know."""
        show(text)

    def warn(self, text: str) -> None:
        """Something that may be wrong, or that weakens a result."""
        self.fact(f"warning: {text}")

    def problem(self, text: str) -> None:
        """Something that makes a result worthless."""
        self.problems += 1
        self.fact(f"PROBLEM: {text}")

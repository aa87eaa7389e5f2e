"""Words of messages."""

from __future__ import annotations


def number_of(number: int, one: str, many: str = "") -> str:
    """``1 image``, ``2 images``; ``many`` where it is not ``one`` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"

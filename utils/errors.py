"""The one exception class of the project, and messages that several modules share."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any


class ReIDError(Exception):
    """An error that the user can correct: a wrong key, a missing file, data that cannot be trained on.

    The message names the key or file, what was found, what was expected and what to do. The scripts print it
    without a traceback and end with :data:`EXIT_STATUS`.
    """


EXIT_STATUS = 2
"""Exit status of the scripts after a :class:`ReIDError`."""


def require_choice(key: str, value: Any, choices: Collection) -> None:
    """Refuse a ``value`` of ``key`` that is none of ``choices``, naming them and the nearest one."""
    if value not in choices:
        names = [str(choice) for choice in choices]
        near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ReIDError(f"{key} = {value!r}: choose one of {', '.join(names)}.{hint}")


def unreadable_folder(error: OSError) -> ReIDError:
    """The error for a folder that cannot be listed: leaving out its images silently would falsify the result."""
    return ReIDError(
        f"{error.filename}: cannot be read ({error.strerror}). Change its permissions, or move it elsewhere to "
        "continue without its images."
    )

"""Standard output and standard error. Either may be closed, on a full disk, a broken pipe or without some characters.

A run does not depend on them: what cannot be shown is left out, and what cannot be encoded is escaped.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

from tqdm import tqdm

from utils.errors import ReIDError


def show(text: str, aside: bool = False) -> None:
    """Write a line, above the progress bars; a failure to write is ignored.

    Args:
        text: the line.
        aside: to standard error.
    """
    _write(f"{text}\n", aside)


def show_results(text: str) -> None:
    """Write what a command was started for to standard output.

    Raises:
        ReIDError: it cannot be written, for another reason than that its reader has left (``| head``).
    """
    error = _write(text)
    if error is not None and not isinstance(error, BrokenPipeError):
        raise ReIDError(f"standard output cannot be written to ({error}). Check the disk, or name a file.")


def is_watched() -> bool:
    """Whether standard error is a terminal."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def colours_shown(aside: bool) -> bool:
    """Whether the stream is a terminal on which colours are wanted (https://no-color.org)."""
    stream = _stream(aside)
    try:
        return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")
    except ValueError:  # closed
        return False


def finish_output() -> None:
    """Write what is still buffered, or drop it: Python ends with status 120 where it cannot write at its end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            _drop(stream)


def _write(text: str, aside: bool = False) -> Exception | None:
    """Write ``text``; the error if that fails."""
    stream = _stream(aside)
    if stream is None:
        return OSError(errno.EBADF, "it is closed")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        with tqdm.external_write_mode(stream):
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
    except (OSError, ValueError) as error:
        return error
    return None


def _stream(aside: bool) -> TextIO | None:
    return sys.stderr if aside else sys.stdout


def _drop(stream: TextIO) -> None:
    """Discard what ``stream`` still holds."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
    except (OSError, ValueError):  # no file of the system
        return

"""Reading text files of users: configurations, tables, lists."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from utils.errors import ReIDError

_JOINERS = "\u200c\u200d"
"""Of scripts and emoji; other characters without a shape turn lines around or hide text."""


def nfc(text: str) -> str:
    """``text`` in the Unicode form in which names are compared: a Mac writes "é" as two characters, others as one."""
    return unicodedata.normalize("NFC", text)


def printable(text: str, keep: str = "") -> str:
    """``text`` with control characters, which steer terminals, and bytes that are no text written as escapes.

    Args:
        text: of any kind; file names on Linux are.
        keep: control characters that stay.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    keep += _JOINERS
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cf") or c in keep else ascii(c)[1:-1] for c in text)


def refuse_pipes(path: Path, verb: str, hint: str = "") -> None:
    """Raise :class:`ReIDError` unless ``path`` is a file or not there yet: pipes and devices could make whoever opens
    them wait or fill the memory for ever.

    Args:
        verb: what is to be done with it, ``"read"`` or ``"written"``.
        hint: what to do, for the message.
    """
    if path.exists() and not path.is_file():
        raise ReIDError(
            f"{path}: cannot be {verb} (it is {'a folder' if path.is_dir() else 'not a regular file'}). {hint}"
        )


def read_text(path: Path, largest: int = 1 << 28, hint: str = "") -> str:
    """The content of a UTF-8 file, a byte order mark left out.

    Args:
        path: the file; see :func:`refuse_pipes`.
        largest: size in bytes up to which the file is read.
        hint: what to do, for messages.

    Raises:
        ReIDError: no such file, no file, too large, or not UTF-8.
    """
    try:
        refuse_pipes(path, "read", hint)
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; null characters in the name
        raise ReIDError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}). {hint}") from None
    if len(content) > largest:
        raise ReIDError(f"{path}: cannot be read (it is larger than {largest >> 20} MiB). {hint}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReIDError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8. {hint}") from None

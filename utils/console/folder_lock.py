"""One training or extraction at a time in a folder: a second one would overwrite what the first resumes from."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.console.logger import LOGGER
from utils.errors import ReIDError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "run.lock"
"""The locked file. It stays when the command ends: deleting it could remove the next command's lock."""

_held: list[int] = []


class FolderInUseError(ReIDError):
    """Another process holds the folder."""


def hold_folder(folder: Path) -> None:
    """Lock ``folder`` for a training until :func:`release_folder`, or until this process ends in any way.

    A lock of this kind belongs to the process alone, so loader processes that outlive a killed training for a moment
    do not hold it. The lock is advisory: where the system or the file system has none, nothing is locked and the log
    says so.

    Raises:
        FolderInUseError: another process holds it.
        ReIDError: something else than a file has the lock's name.
        OSError: the file cannot be made.
    """
    release_folder()
    who = f"OUTPUT_DIR = {folder}: another training is running there"
    advice = "stop it (it saves its state, and the same command resumes), or choose another OUTPUT_DIR."
    file = _lock(folder, who, advice)
    if file is not None:
        _held.append(file)


def release_folder() -> None:
    """Give back what :func:`hold_folder` locked in this process, if anything."""
    while _held:
        os.close(_held.pop())


@contextmanager
def folder_held(folder: Path, who: str, advice: str) -> Iterator[None]:
    """Lock ``folder`` as :func:`hold_folder` does while a block runs.

    Args:
        who: what the message calls the other process: ``"DIR: another training is running there"``.
        advice: what to do besides waiting.
    """
    file = _lock(folder, who, advice)
    try:
        yield
    finally:
        if file is not None:
            os.close(file)


def _lock(folder: Path, who: str, advice: str) -> int | None:
    if fcntl is None:
        return None
    file = _open(folder / NAME)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(file, 20).decode(errors="replace").strip()
        os.close(file)
        raise FolderInUseError(f"{who} (process {holder or 'unknown'}). Wait for its end, {advice}") from None
    except OSError as error:
        os.close(file)
        LOGGER.warning("%s: cannot be locked (%s). Start no other command in this folder.", folder, error.strerror)
        return None
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()}\n".encode())
    return file


def _open(path: Path) -> int:
    """Make or open the lock's file. In a shared folder the name may be another user's link, whose target would be
    emptied.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
    except OSError:
        if not path.is_symlink() and not path.is_dir():
            raise
    raise ReIDError(f"{path}: expected the lock file of this folder, found a link or no regular file. Remove it.")

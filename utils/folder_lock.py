"""One training at a time in a folder: a second one would delete and overwrite what the first goes on from."""

from __future__ import annotations

import os
from pathlib import Path

from utils.errors import ReIDError
from utils.logger import LOGGER

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "run.lock"
"""The locked file. It stays when the training ends: deleting it could take it from under the next one."""

_held: list[int] = []


def hold_folder(folder: Path) -> None:
    """Lock ``folder`` until :func:`release_folder`, or until this process dies, however it does.

    A lock of this kind belongs to the process alone, so loader processes that outlive a killed training for a moment
    do not hold it. It is advice: where the system or the file system has none, nothing is locked and the log says so.

    Raises:
        ReIDError: another process holds it.
        OSError: the file cannot be made.
    """
    release_folder()
    if fcntl is None:
        return
    file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(file, 20).decode(errors="replace").strip()
        os.close(file)
        raise ReIDError(
            f"OUTPUT_DIR = {folder}: another training is running there (process {holder or 'unknown'}). Wait for its "
            "end, stop it (it saves, and the same command goes on), or choose another OUTPUT_DIR."
        ) from None
    except OSError as error:
        os.close(file)
        LOGGER.warning("%s: cannot be locked (%s). Start no second training there.", folder, error.strerror)
        return
    _held.append(file)
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()}\n".encode())


def release_folder() -> None:
    """Give back what :func:`hold_folder` locked in this process, if anything."""
    while _held:
        os.close(_held.pop())

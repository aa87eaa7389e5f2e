"""Files of a run, written so that an interruption never leaves half of one."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from utils.compute.distributed import is_main
from utils.compute.workers import lost_worker
from utils.errors import ReIDError
from utils.files.text_files import refuse_pipes

UNFINISHED = ".unfinished"
"""Ending of the temporary files; their names begin with a dot."""


def model_file(folder: Path, name: str, ending: str) -> Path:
    """Where the model called ``name`` (``MODEL.NAME``) lies: ``ViT-B-16_60.pth``; no part of a name is a folder."""
    return folder / f"{name.replace('/', '-')}_{ending}.pth"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then give it that name.

    Of several processes that train as one, the first writes and the others do nothing.

    Raises:
        ReIDError: the folder cannot be written to or the disk is full; an older file under ``path`` stays as it was.
    """
    if not is_main():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        try:
            with temporary.open("xb") as file:  # not tempfile's: the user's umask says who may read a file
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _keep_names(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:
        # torch.save turns a full disk into a RuntimeError.
        if lost_worker(error):
            raise
        raise ReIDError(
            f"{path}: cannot be written ({error}). Check OUTPUT_DIR, its permissions and the disk."
        ) from error


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically` in UTF-8. File names need not be text: what is none of it is written as escapes."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def _keep_names(folder: Path) -> None:
    """Have the disk keep the new name too, where folders can be synchronised (not on Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A ``.npy`` file of float32, mapped for writing, whose place on the disk is taken at once.

    Writing into a mapped file for which the disk has no room would kill the process without a word.

    Raises:
        ReIDError: the folder cannot be written to or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate") and array.nbytes:
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ReIDError(
            f"{path}: cannot be written ({error}). Check the folder, its permissions and the disk."
        ) from error
    return array


def remove_unfinished(folder: Path) -> None:
    """Delete unfinished files of killed runs in ``folder``; no other process may be writing there."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def save_model(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict under the published names; read it with ``weights_only=True``."""
    write_atomically(path, lambda file: torch.save(state, file))


def load_model(model: nn.Module, path: Path, not_kept: tuple[str, ...] = ()) -> None:
    """Read what :func:`save_model` wrote for the same model; tensors named ``not_kept...`` stay as they are.

    Raises:
        ReIDError: the file is missing, damaged or of another model.
    """
    refuse_pipes(path, "read", "Set RESUME to never to train again.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        kept = {name: t for name, t in model.state_dict().items() if name.startswith(not_kept or ("\0",))}
        model.load_state_dict({**kept, **state})
    except Exception as error:  # damaged files make torch raise about anything
        raise ReIDError(
            f"{path}: is not the checkpoint that this run wrote ({type(error).__name__}: {str(error)[:300]}). Set "
            "RESUME to never to train again."
        ) from None


def save_json(content: Any, path: Path) -> None:
    """Write ``content`` as indented JSON."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))

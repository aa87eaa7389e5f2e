"""The state a killed run resumes from: numbered files, each with its checksum, the last few kept."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.files.checkpoint import save_json, write_atomically
from utils.files.text_files import read_text

_NAME = re.compile(r"state_([0-9]{6})\.pt")


class TrainingStates:
    """States of one run in ``folder``, newest last.

    A state is two files: ``state_<n>.pt``, plain tensors and numbers read with ``weights_only``, and
    ``state_<n>.json`` with its size and SHA-256, written after it. A state without a manifest that fits is no state:
    the run died while writing it, or the file was changed.

    Args:
        folder: where they are; it need not exist yet.
        kept: how many stay. Each is as large as model and optimizer; a single one is lost once it is damaged.
    """

    def __init__(self, folder: Path, kept: int = 2) -> None:
        self.folder = folder
        self.kept = kept

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state`` as the newest and delete all but the last ones."""
        number = max(self._numbers(), default=0) + 1
        path = self._file(number)
        write_atomically(path, lambda file: torch.save(state, file))
        save_json({"bytes": path.stat().st_size, "sha256": _sha256(path)}, path.with_suffix(".json"))
        finished = [n for n in sorted(self._numbers()) if self._file(n).with_suffix(".json").exists()]
        self._delete(n for n in self._numbers() if n < finished[-self.kept :][0])

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, None if none is; damaged ones are named in the log and passed over."""
        numbers = sorted(self._numbers(), reverse=True)
        for number in numbers:
            path = self._file(number)
            reason = _damage(path)
            if not reason:
                try:
                    return torch.load(path, map_location="cpu", weights_only=True)
                except Exception as error:  # the checksum fits, so another program wrote the file
                    reason = f"it does not hold plain tensors and numbers ({type(error).__name__})"
            LOGGER.warning("%s is not used: %s. Trying the one before it.", path, reason)
        if numbers:
            LOGGER.warning("none of the %d states in %s is whole", len(numbers), self.folder)
        return None

    def clear(self) -> None:
        """Delete all states, for a run that starts over."""
        self._delete(self._numbers())

    def _delete(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._file(number).with_suffix(".json").unlink(missing_ok=True)
            self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"state_{number:06d}.pt"

    def _numbers(self) -> list[int]:
        found = (_NAME.fullmatch(path.name) for path in self.folder.glob("state_*.pt"))
        return [int(match[1]) for match in found if match]


def _damage(path: Path) -> str:
    """Why the state cannot be trusted; empty if it can."""
    try:
        manifest = json.loads(read_text(path.with_suffix(".json"), 4096))
        if not path.is_file():
            return "it is not a regular file"
        if path.stat().st_size != manifest["bytes"] or _sha256(path) != manifest["sha256"]:
            return "its content does not have the checksum of its manifest"
    except (ReIDError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

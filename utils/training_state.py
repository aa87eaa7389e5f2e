"""The state a killed run goes on from: numbered files, each with its checksum, the last few kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from utils.checkpoint import save_json, write_atomically
from utils.logger import LOGGER

KEPT = 2


class TrainingStates:
    """States of one run in ``folder``, newest last.

    A state is two files: ``state_<n>.pt``, plain tensors and numbers read with ``weights_only``, and
    ``state_<n>.json`` with its size and SHA-256, written after it. A state without a manifest that fits is no state:
    the run died while writing it, or somebody changed it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state`` as the newest and delete all but the last :data:`KEPT`."""
        numbers = self._numbers()
        number = max(numbers, default=0) + 1
        path = self._file(number)
        write_atomically(path, lambda file: torch.save(state, file))
        save_json({"bytes": path.stat().st_size, "sha256": _sha256(path)}, path.with_suffix(".json"))
        for old in sorted(numbers)[: len(numbers) + 1 - KEPT]:
            self._file(old).with_suffix(".json").unlink(missing_ok=True)
            self._file(old).unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole; damaged ones are named in the log and passed over."""
        for number in sorted(self._numbers(), reverse=True):
            path = self._file(number)
            reason = _damage(path)
            if not reason:
                return torch.load(path, map_location="cpu", weights_only=True)
            LOGGER.warning("%s is not used: %s. Trying the one before it.", path, reason)
        return None

    def clear(self) -> None:
        """Delete all states, for a run that starts over."""
        for number in self._numbers():
            self._file(number).with_suffix(".json").unlink(missing_ok=True)
            self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"state_{number:06d}.pt"

    def _numbers(self) -> list[int]:
        names = (path.stem.removeprefix("state_") for path in self.folder.glob("state_*.pt"))
        return [int(name) for name in names if name.isdecimal()]


def _damage(path: Path) -> str:
    """Why the state cannot be trusted; empty if it can."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if path.stat().st_size != manifest["bytes"] or _sha256(path) != manifest["sha256"]:
            return "its content does not have the checksum of its manifest"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

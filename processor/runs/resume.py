"""The state that a run resumes from: its own, or one of another run that ``RESUME`` names."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import Any

from processor.runs.states import TrainingStates
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.files.checkpoint import remove_unfinished, write_atomically


def find_state(source: str, states: TrainingStates, output_dir: Path) -> tuple[dict[str, Any] | None, Path]:
    """The state that ``source`` names, None if there is none, and the folder it lies in.

    Args:
        source: ``RESUME``.
        states: of this run; they come before another run's, and ``never`` deletes them.
        output_dir: of this run; what a killed run left unfinished there is removed.

    Raises:
        ReIDError: ``source`` is neither a word nor a folder with a state.
    """
    for folder in (output_dir, states.folder):
        remove_unfinished(folder)
    if source == "never":
        states.clear()
        return None, states.folder
    state = states.load()
    if source == "auto" or _started_from(state) == source:
        return state, states.folder
    _check_source(source)
    if state is not None:
        LOGGER.warning("RESUME = %s is not used: %s has states of its own", source, output_dir)
        return state, states.folder
    states = TrainingStates(Path(source) / "resume")
    state = states.load()
    if state is None:
        raise ReIDError(f"RESUME = {source!r}: no saved state in {states.folder}. Name a run's OUTPUT_DIR.")
    return state, states.folder


def bring_best(folder: Path, own: Path) -> None:
    """Bring the best model so far to ``own``; it belongs to the state and lies in ``folder``, beside ``resume/``.

    Raises:
        ReIDError: it is missing.
    """
    source = folder / own.name
    if not source.is_file():
        raise ReIDError(
            f"{source}: the best checkpoint of the run to resume is missing. Restore it, set "
            "RESUME to never to start over, or choose another OUTPUT_DIR."
        )
    if folder.resolve() != own.parent.resolve():
        with source.open("rb") as file:
            write_atomically(own, lambda target: shutil.copyfileobj(file, target))


def check_state(state: Any, folder: Path) -> None:
    """Refuse what is no state of a run even if its checksum fits.

    Raises:
        ReIDError: naming ``folder``, where it lies.
    """
    kinds = {"settings": dict, "position": list, "history": list, "results": dict, "seconds": float, "data": str}
    kinds |= {"parts": dict, "best": dict}
    whole = isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in kinds.items())
    # A state of an earlier version has no alignment.
    kept = state.get("alignment", {}) if whole else {}
    whole = whole and isinstance(kept, dict) and all(isinstance(part, dict) for part in kept.values())
    whole = whole and all(isinstance(part, dict) for part in (*state["history"], *state["results"].values()))
    whole = whole and (
        not state["best"] or all(type(state["best"].get(key)) in (int, float) for key in ("epoch", "mAP"))
    )
    if not whole or [type(value) for value in state["position"]] != [int, int, int, bool]:
        raise ReIDError(f"{folder}: its newest state is not one of a run. Set RESUME to never to start over.")


def _started_from(state: object) -> object:
    """``RESUME`` of the run that saved ``state``, an untrusted file."""
    settings = state.get("settings") if isinstance(state, dict) else None
    return settings.get("RESUME") if isinstance(settings, dict) else None


def _check_source(source: str) -> None:
    """Refuse a misspelt word: where there are states, taking it for ``auto`` would resume the run in them."""
    words = ("auto", "never")
    if source in words or Path(source).is_dir():
        return
    near = difflib.get_close_matches(source.strip().lower(), words, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ReIDError(f"RESUME = {source!r}: expected auto, never or the OUTPUT_DIR of another run.{hint}")

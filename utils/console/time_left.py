"""How long a training will still take, by the epochs that it has done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

RECENT = 5
"""Epochs that an estimate is made from; the first one, which reads images from the disk, soon no longer counts."""

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def time_left(history: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """The end of the last epoch's line in the log: what remains, in words; empty at the end of the last stage.

    Evaluations are not counted. How long the epochs of a stage take is known once it runs: later stages are named.

    Args:
        history: one entry an epoch with ``stage``, ``epoch`` and ``seconds``.
        settings: flat; ``SOLVER.STAGES`` and ``SOLVER.STAGE<n>.MAX_EPOCHS``.
    """
    stage, epoch = history[-1]["stage"], history[-1]["epoch"]
    recent = [entry["seconds"] for entry in history if entry["stage"] == stage][-RECENT:]
    epochs = {number: settings[f"SOLVER.STAGE{number}.MAX_EPOCHS"] for number in settings["SOLVER.STAGES"]}
    seconds = (epochs[stage] - epoch) * median(recent)
    later = [f"{count} epochs of stage {number}" for number, count in epochs.items() if number > stage]
    parts = [f"about {in_words(seconds)}"] if epoch < epochs[stage] else []
    return f"  left {', then '.join([*parts, *later])}" if parts or later else ""


def in_words(seconds: float) -> str:
    """``seconds`` in one or two units: ``2 h 10 min``, ``5 s``."""
    whole = max(1, round(seconds))
    place = next(i for i, (_, size) in enumerate(UNITS) if whole >= size)
    found = []
    for name, size in UNITS[place : place + 2]:
        count, whole = divmod(whole, size)
        found += [f"{count} {name}"] if count else []
    return " ".join(found)

"""Which settings of a run may change when it resumes, and in what two runs differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs import get_defaults
from configs.renamed import RENAMED
from processor.runs.folder import flatten
from utils.errors import ReIDError

FREE_TO_CHANGE = (
    "OUTPUT_DIR",
    "RESUME",
    "CHECKPOINT_MINUTES",
    "CHECKPOINTS_KEPT",
    "MODEL.DEVICE",
    "DATASETS.ROOT_DIR",
    "DATASETS.LISTING",
    "DATASETS.CHECK_IMAGES",
    "DATASETS.CACHE",
    "DATALOADER.NUM_WORKERS",
    "TEST.",
    ".CHECKPOINT_PERIOD",
    ".LOG_PERIOD",
    ".EVAL_PERIOD",
)
"""Keys, or their beginnings or ends, that may change when a run resumes: no training step sees them."""

VALIDATED_WITH = frozenset(
    f"TEST.{key}" for key in ("AP", "METRIC", "FLIP", "FEAT_NORM", "FEATURE", "NECK_FEAT", "PRECISION")
)
"""Keys that choose the best epoch where images are held out: there they may not change."""


def check_same_settings(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume with a configuration that computes something else.

    Args:
        before: settings of the state to resume from.
        now: settings of this run.
        folder: where the state lies.

    Raises:
        ReIDError: naming the keys.
    """
    held_out = now.get("DATASETS.HOLD_OUT")
    before = _in_todays_terms(before)
    differing = [
        key for key in differing_keys(before, now) if not free_to_change(key) or (held_out and key in VALIDATED_WITH)
    ]
    if not differing:
        return
    gone = [key for key in differing if key not in now]
    shown = [f"{key}: {before[key]!r}, a key of another version" for key in gone]
    shown += [f"{key}: {before.get(key, _default(key))!r} -> {now[key]!r}" for key in differing if key in now]
    advice = "Resume with the version that wrote it" if gone else "Take the old values to resume"
    longer = ""
    if any(key.endswith(".MAX_EPOCHS") for key in differing):
        longer = " To train on from its weights, choose another OUTPUT_DIR and name its checkpoint in "
        longer += "MODEL.PRETRAIN_PATH: the schedule begins again."
    raise ReIDError(
        f"{folder} holds the state of a run with another configuration ({'; '.join(shown)}). {advice}, set RESUME to "
        f"never to start over, or choose another OUTPUT_DIR.{longer}"
    )


def differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys whose value ``now`` is another one than ``before``, when a key may not have existed yet.

    A key that ``before`` lacks had the effect of today's default. A key that is gone differs.
    """
    old = _in_todays_terms(before)
    return [
        key for key in sorted({*old, *now}) if key not in now or (old[key] if key in old else _default(key)) != now[key]
    ]


def _in_todays_terms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` of an earlier version, which kept ``~`` as it was written and named some keys otherwise."""
    return {
        RENAMED.get(key, key): os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111
        for key, value in settings.items()
    }


def _default(key: str) -> Any:
    return flatten(get_defaults()).get(key)


def free_to_change(key: str) -> bool:
    """Whether a run may resume with another value of ``key``: no training step sees it."""
    return key.startswith(FREE_TO_CHANGE) or key.endswith(FREE_TO_CHANGE)

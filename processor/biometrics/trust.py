"""The calibration of a checkpoint, and whether it is still valid."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.biometric.scores.calibration import Calibration, load_calibration
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


def calibration_file(weights: Path) -> Path:
    """Where the calibration of a checkpoint lies: ``model.pth`` has ``model.calibration.json``."""
    return weights.with_suffix(".calibration.json")


def calibration_facts(cfg: CfgNode, weights: Path | None) -> dict[str, Any]:
    """What a calibration depends on besides its people: the checkpoint and how features are computed."""
    keys = {name: cfg.TEST[name] for name in ("FLIP", "NECK_FEAT", "PRECISION")}
    images = {name: cfg.INPUT[name] for name in ("ALIGN", "FIT_TEST")} | {"SIZE_TEST": list(cfg.INPUT.SIZE_TEST)}
    protocol = keys | images | {"NAME": cfg.MODEL.NAME}
    return {"checksum": checksum(weights) if weights and weights.is_file() else None, "protocol": protocol}


def checksum(path: Path) -> str:
    """CRC-32 of a file, read in pieces."""
    value = 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"


def trusted_calibration(weights: Path, facts: Mapping[str, Any]) -> Calibration:
    """The calibration beside a checkpoint, if it was fitted for it and for features computed like this.

    Args:
        weights: the checkpoint.
        facts: of :func:`calibration_facts`.

    Raises:
        ReIDError: there is none, or it is of other weights or of other features.
    """
    path = calibration_file(weights)
    calibration = load_calibration(path)
    kept = calibration.facts
    if kept.get("checksum") != facts["checksum"]:
        raise ReIDError(
            f"{path}: fitted for weights with the checksum {kept.get('checksum')}; {weights} has {facts['checksum']}. "
            "Evaluate these weights with TEST.CALIBRATION True."
        )
    known, wanted = (
        {"ALIGN": "none", "FIT_TEST": "stretch", "PRECISION": "fp32"} | kept.get("protocol", {}),
        facts["protocol"],
    )
    other = [f"{key} {known.get(key)!r} (now {value!r})" for key, value in wanted.items() if known.get(key) != value]
    if other:
        raise ReIDError(
            f"{path}: fitted with {', '.join(other)}. Use the same, or evaluate with TEST.CALIBRATION True."
        )
    return calibration

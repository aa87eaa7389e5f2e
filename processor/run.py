"""One run and its folder: what is set up at the beginning and written at the end."""

from __future__ import annotations

import platform
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torchvision

from utils.checkpoint import write_atomically
from utils.device import Precision, choose_device, choose_precision
from utils.errors import ReIDError
from utils.logger import LOGGER, setup_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yacs.config import CfgNode


@dataclass
class Run:
    """What everything in one run shares.

    Attributes:
        precision: device and number format.
        output_dir: folder of everything the run writes.
        history: one entry an epoch, as written to ``metrics.json``.
        started: when, as a reading of ``time.perf_counter``.
    """

    precision: Precision
    output_dir: Path
    history: list[dict] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self.precision.device

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self.started

    def describe_device(self) -> str:
        """Device and number format in words."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"{name}, {str(self.precision.dtype).removeprefix('torch.')}"


def start_run(cfg: CfgNode, notes: Sequence[str] = ()) -> Run:
    """Choose the device, seed everything, open the log and keep the whole configuration in ``OUTPUT_DIR``.

    Args:
        cfg: the configuration.
        notes: logged first.

    Raises:
        ReIDError: there is no such device, or ``OUTPUT_DIR`` cannot be written to.
    """
    precision = choose_precision(cfg.SOLVER.PRECISION, choose_device(cfg.MODEL.DEVICE, cfg.MODEL.DEVICE_ID))
    output_dir = Path(cfg.OUTPUT_DIR)
    write_atomically(output_dir / "config.yml", lambda file: file.write(cfg.dump().encode()))
    try:
        setup_logger(output_dir / "train_log.txt")
    except OSError as error:
        raise ReIDError(f"OUTPUT_DIR = {output_dir}: the log cannot be written ({error}).") from None
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(cfg.SOLVER.SEED)
    run = Run(precision, output_dir)
    LOGGER.info("%s; torch %s, torchvision %s, Python %s", run.describe_device(), *_versions())
    for note in notes:
        LOGGER.info("note: %s", note)
    return run


def _versions() -> tuple[str, str, str]:
    return torch.__version__, torchvision.__version__, platform.python_version()

"""The start of a run: device, seed, log, and what it resumes from."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from yacs.config import CfgNode

from configs.checks import schedule_notes
from processor.runs.folder import flatten, holds_training
from processor.runs.run import Run
from processor.runs.targets import target_configs
from utils.compute.device import busy_note, choose_device, choose_precision
from utils.compute.distributed import is_main
from utils.compute.seed import reproducibility_note, seed_everything
from utils.console.folder_lock import hold_folder
from utils.console.logger import LOGGER, setup_logger
from utils.errors import ReIDError
from utils.files.checkpoint import write_atomically
from utils.files.paths import ShortPaths
from utils.retrieval.points import require_opencv
from utils.retrieval.search import require_faiss


def start_run(cfg: CfgNode, notes: Sequence[str] = (), test: bool = False) -> Run:
    """Choose the device, seed everything, open the log, find what to resume, keep the configuration in ``OUTPUT_DIR``.

    Args:
        cfg: the configuration.
        notes: logged first.
        test: this run only tests; it leaves the files of a training in the same folder as they are.

    Raises:
        ReIDError: there is no such device, ``OUTPUT_DIR`` cannot be written to or another training is running in
            it, or the run in it may not be resumed.
    """
    if cfg.TEST.SEARCH == "faiss":
        require_faiss()
    if cfg.TEST.POINTS != "0":
        require_opencv("TEST.POINTS")
    trains = cfg.SOLVER.STAGES and not test
    name = cfg.SOLVER.PRECISION if trains else cfg.TEST.PRECISION
    precision = choose_precision(name, choose_device(cfg.MODEL.DEVICE, cfg.MODEL.DEVICE_ID))
    run = Run(precision, Path(cfg.OUTPUT_DIR), flatten(cfg), cfg.CHECKPOINT_MINUTES, cfg.CHECKPOINTS_KEPT)
    everything = [run.settings, *(flatten(target) for target in target_configs(cfg).values())]
    run.shorten = ShortPaths(value for keys in everything for value in keys.values() if isinstance(value, str))
    run.suffix = "_test" if test and (run.states.folder.is_dir() or holds_training(run.output_dir)) else ""
    try:
        run.output_dir.mkdir(parents=True, exist_ok=True)
        if not test and is_main():
            hold_folder(run.output_dir)
        setup_logger(run.output_dir / "train_log.txt", run.shorten)
    except OSError as error:
        raise ReIDError(
            f"OUTPUT_DIR = {run.output_dir}: the log cannot be written ({error.strerror}). Check its permissions and "
            "the disk."
        ) from None
    seed_everything(cfg.SOLVER.SEED, cfg.SOLVER.DETERMINISTIC)  # all processes alike: they start as one model
    LOGGER.info("%s; torch %s, torchvision %s, Python %s", run.describe_device(), *_versions())
    on_bits = reproducibility_note(run.device, cfg.SOLVER.DETERMINISTIC)
    schedules = [] if test else schedule_notes(cfg)
    for note in filter(None, (*notes, *schedules, on_bits, busy_note(run.device))):
        LOGGER.info("note: %s", note)
    if not test:
        run.resume(cfg.RESUME)
    # Last: a run that may not resume here leaves the configuration of the one before.
    write_atomically(run.output_dir / f"config{run.suffix}.yml", lambda file: file.write(cfg.dump().encode()))
    return run


def _versions() -> tuple[str, str, str]:
    return torch.__version__, torchvision.__version__, platform.python_version()

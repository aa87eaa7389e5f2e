"""One model tested on several data sets: those of ``TEST.TARGETS``, in one table with their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from datasets import add_fields, check_data, make_dataloader, make_dataset, write_drawn_splits
from datasets.bases import ReIDDataset
from model import METHODS
from model.base import Method
from processor.processor_clipreid_stage2 import do_inference
from processor.runs.run import Run, fingerprint
from processor.runs.targets import target_configs
from processor.testing.biometrics import by_protocol
from utils.compute.distributed import is_main, main_process_first, on_main_process
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class Target(NamedTuple):
    """A data set that is tested only: its name in the table, its configuration, its images."""

    name: str
    cfg: CfgNode
    dataset: ReIDDataset
    loader: DataLoader


def make_targets(cfg: CfgNode, run: Run) -> list[Target]:
    """Read and check the data sets of ``TEST.TARGETS``, before any training.

    Random splits are written below ``targets/<name>`` in the run's folder.

    Raises:
        ReIDError: a target's data set is missing or unfit; the message begins with the target.
    """
    needs = METHODS[cfg.MODEL.METHOD].needs(cfg, training=False)
    return [_make_target(name, own, needs, run) for name, own in target_configs(cfg).items()]


def _make_target(name: str, cfg: CfgNode, needs: frozenset[str], run: Run) -> Target:
    LOGGER.info("target %s:", name)
    try:
        with main_process_first():
            dataset = make_dataset(cfg, require_train=False)
            add_fields(cfg, dataset, needs)
        check_data(cfg, dataset)
    except ReIDError as error:
        raise ReIDError(f"TEST.TARGETS, {name}: {error}") from None
    if any(trial.run is not None for trial in dataset.trials):
        folder = run.output_dir / "targets" / name

        def write() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            write_drawn_splits(dataset, folder)

        on_main_process(write)
    return Target(name, cfg, dataset, make_dataloader(cfg, dataset).test)


def evaluate_targets(targets: list[Target], model: Method, run: Run) -> dict[str, dict[str, Any]]:
    """Numbers of ``model`` on each target, and ``mean``, what all targets have of them, averaged.

    Nothing where there are no targets, and in all processes but the first.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, cfg, dataset, loader in targets:
        LOGGER.info("target %s", name)
        evaluation = do_inference(cfg, model, loader, dataset, run)
        if evaluation is not None:
            record = by_protocol(cfg, dataset, evaluation).record()
            images = fingerprint(*(part for trial in dataset.trials for part in (trial.query, trial.gallery)))
            found[name] = record | {"dataset": dataset.name, "images": images, "camera_rule": dataset.camera_rule}
    if not found or not is_main():
        return {}
    measures = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP", "EER")
    known = [measure for measure in measures if all(measure in record for record in found.values())]
    means = {measure: float(np.mean([record[measure] for record in found.values()])) for measure in known}
    return {"sets": found, "mean": means}

"""The biometric performance of an evaluation: the sections that the configuration selects, and their numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.fields.hand_masks import mask_points
from model.clip.hands_clip import FILE as HANDS_CLIP
from processor.biometrics.calibration import fit, likelihood_ratios
from processor.biometrics.errors import error_rates
from processor.biometrics.fusion import fuse, modalities_of
from processor.biometrics.groups import by_group, group_names
from processor.biometrics.normalisation import normalised
from processor.biometrics.open_set import open_set
from processor.biometrics.setting import Section, Setting, given_thresholds, verified
from processor.biometrics.templates import template_curve
from processor.biometrics.training import needs_training, training_features
from processor.biometrics.trust import calibration_facts, calibration_file
from utils.biometric.scores.calibration import Calibration
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset
    from model.base import Method
    from processor.runs.run import Run
    from processor.testing.evaluation import Evaluation


def setting_of(cfg: CfgNode, dataset: ReIDDataset, evaluation: Evaluation) -> Setting:
    """The first trial of an evaluation."""
    return Setting(
        cfg.TEST, cfg.DATASETS.SPLIT_SEED, dataset, evaluation.query, evaluation.gallery, local=evaluation.local
    )


def by_protocol(cfg: CfgNode, dataset: ReIDDataset, evaluation: Evaluation) -> Evaluation:
    """The evaluation with the error rates of the pairs that the data set's protocol lists, where it lists any."""
    setting = setting_of(cfg, dataset, evaluation)
    if setting.pairs is None or not cfg.TEST.VERIFICATION:
        return evaluation
    return replace(evaluation, verification=verified(cfg.TEST, setting.blocks, None, evaluation.local))


def measure(
    cfg: CfgNode,
    run: Run,
    dataset: ReIDDataset,
    evaluation: Evaluation,
    model: Method,
    loader: DataLoader,
    weights: Path | None,
) -> list[Section]:
    """All sections that ``TEST`` selects; one that cannot be computed is named in the log, and the others are kept.

    Args:
        cfg: ``TEST`` and the seed are read.
        run: device and output folder, which receives ``calibration.json``.
        dataset: images, people, protocol.
        evaluation: features and error rates.
        model, loader: what was evaluated and on which images, to compute features of training people.
        weights: the checkpoint that was evaluated; a calibration is kept beside it.
    """
    if evaluation.verification is None:
        return []
    setting = setting_of(cfg, dataset, evaluation)
    keys = cfg.TEST
    sections = [error_rates(setting, evaluation.verification, evaluation.metrics)]
    wanted: list[tuple[str, bool, Callable[[], Section]]] = [
        ("TEST.OPEN_SET", keys.OPEN_SET > 0, lambda: open_set(setting)),
        ("TEST.TEMPLATE", keys.TEMPLATE != "none", lambda: template_curve(setting)),
        ("TEST.GROUPS", bool(keys.GROUPS), lambda: by_group(setting, evaluation.verification)),
    ]
    if needs_training(keys):
        trained = partial(_trained, cfg, run, dataset, setting, evaluation, model, loader, weights)
        wanted += trained()
    for key, on, section in wanted:
        if not on:
            continue
        try:
            sections.append(section())
        except ReIDError as error:
            LOGGER.warning("%s left out: %s", key, str(error).removeprefix(f"{key}: "))
    return sections


def check_performance(cfg: CfgNode, dataset: ReIDDataset) -> None:
    """Refuse, before training, figures that the data set cannot give.

    Raises:
        ReIDError: fusion without persons, unknown attributes, thresholds of a run that is not there, masks without
            key points.
    """
    keys = cfg.TEST
    if keys.FUSE != "none":
        modalities_of(dataset, [*dataset.query, *dataset.gallery])
    for attribute in keys.GROUPS:
        group_names(dataset, attribute)
    given_thresholds(keys)
    if keys.POINTS_MASK:
        mask_points(cfg, dataset)


def _trained(
    cfg: CfgNode,
    run: Run,
    dataset: ReIDDataset,
    setting: Setting,
    evaluation: Evaluation,
    model: Method,
    loader: DataLoader,
    weights: Path | None,
) -> list[tuple[str, bool, Callable[[], Section]]]:
    """The sections that learn from training people."""
    keys = cfg.TEST
    try:
        features = training_features(cfg, dataset, model, loader, run.device)
    except ReIDError as error:
        LOGGER.warning("left out: %s", error)
        return []
    taught = replace(setting, training=features)

    def calibrated() -> Section:
        calibration = fit(taught, calibration_facts(cfg, weights))
        keep(calibration, run.output_dir, weights)
        return likelihood_ratios(taught, calibration, evaluation.verification.scores)

    return [
        ("TEST.SCORE_NORM", keys.SCORE_NORM != "none", lambda: normalised(taught)),
        ("TEST.FUSE", keys.FUSE != "none", lambda: fuse(taught)),
        ("TEST.CALIBRATION", keys.CALIBRATION, calibrated),
    ]


def keep(calibration: Calibration, folder: Path, weights: Path | None) -> None:
    """Write ``calibration.json`` into ``folder``, and beside the checkpoint if that lies elsewhere.

    Nothing is written into the package: beside the weights that it contains.
    """
    calibration.save(folder / "calibration.json")
    if weights is None or weights.resolve() == HANDS_CLIP:
        return
    beside = calibration_file(weights)
    try:
        calibration.save(beside)
    except ReIDError as error:
        LOGGER.warning("the calibration is kept in %s alone: %s", folder, error)

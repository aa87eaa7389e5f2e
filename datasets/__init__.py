"""Data sets by ``DATASETS.NAMES``, and the way from the configuration to one of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container
from pathlib import Path
from typing import TYPE_CHECKING

import utils.console.early_signals  # noqa: F401 -- first: Ctrl-C while the packages below are loaded
from datasets.bases import ReIDDataset
from datasets.checks import check_data
from datasets.dukemtmcreid import DukeMTMCreID
from datasets.fields.captions import captions_of, classes_of
from datasets.fields.geometry import AUGMENTATION, point_reader
from datasets.fields.sources import source_reader
from datasets.fields.textures import texture_reader
from datasets.hands.folder import HandFolder
from datasets.hands.hand_11k import Hand11k
from datasets.hands.hand_fkp import PolyUFKP
from datasets.hands.hand_hd import HandHD
from datasets.listing import Listing
from datasets.make_dataloader_clipreid import Loaders, make_dataloader
from datasets.market1501 import Market1501
from datasets.msmt17 import MSMT17
from datasets.occ_duke import OccludedDuke
from datasets.parsing.draws import Draws, keep_fraction
from datasets.parsing.protocols import Roles
from datasets.parsing.splits import write_drawn_splits
from datasets.pattern import PatternDataset
from datasets.reading.alignment import aligned_images
from datasets.reading.images import reading_of
from datasets.reading.mirroring import mirrored_images
from datasets.synthetic_hand.dataset import SyntheticHand
from datasets.vehicleid import VehicleID
from datasets.veri import VeRi
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = [
    "DATASETS",
    "Loaders",
    "add_fields",
    "captions_of",
    "check_data",
    "classes_of",
    "make_dataloader",
    "make_dataset",
    "write_drawn_splits",
]

DATASETS: dict[str, Callable[[CfgNode], tuple[type[ReIDDataset], dict]]] = {
    "market1501": lambda keys: (Market1501, _rule(keys)),
    "dukemtmc": lambda keys: (DukeMTMCreID, _rule(keys)),
    "msmt17": lambda keys: (MSMT17, _rule(keys)),
    "occ_duke": lambda keys: (OccludedDuke, _rule(keys)),
    "veri": lambda keys: (VeRi, _rule(keys)),
    "vehicleid": lambda keys: (VehicleID, {"test_size": keys.TEST_SIZE, **_split(keys)}),
    "hand": lambda keys: (HandFolder, {"draws": _draws(keys), **_rule(keys)}),
    "listing": lambda keys: (Listing, _listing(keys)),
    "pattern": lambda keys: (PatternDataset, _pattern(keys)),
    "hand_11k": lambda keys: (Hand11k, {"aspect": keys.ASPECT, **_hand_split(keys)}),
    "hand_hd": lambda keys: (HandHD, _hand_split(keys)),
    "hand_fkp": lambda keys: (PolyUFKP, _rule(keys)),
    "synthetic_hand": lambda keys: (SyntheticHand, _drawing(keys.SYNTHETIC)),
}
"""From ``DATASETS.NAMES`` to the class and what it takes besides root and require_train."""


def make_dataset(cfg: CfgNode, require_train: bool = True) -> ReIDDataset:
    """The data set that ``cfg.DATASETS`` names.

    Args:
        cfg: the configuration.
        require_train: False where only the test images are wanted.

    Raises:
        ReIDError: there is no such data set, or its files are missing or unfit.
    """
    keys = cfg.DATASETS
    name = keys.NAMES.lower()
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ReIDError(f"DATASETS.NAMES = {keys.NAMES!r}: choose one of {', '.join(DATASETS)}.{hint}")
    kind, options = DATASETS[name](keys)
    if "run" in options:
        options["runs"] = cfg.TEST.RUNS
    for several in ("roles", "draws"):
        if several in options:
            options[several] = options[several]._replace(runs=cfg.TEST.RUNS)
    if keys.FOLDS and "draws" not in options:
        raise ReIDError(f"DATASETS.FOLDS = {keys.FOLDS}: folds over people are for hand and listing, not for {name}.")
    dataset = kind(root=keys.ROOT_DIR, require_train=require_train, **options)
    windows, unaligned = aligned_images(cfg, dataset)
    dataset.reading = reading_of(cfg, dataset.boxes, mirrored_images(cfg.INPUT.MIRROR, dataset), windows)
    dataset.notes += unaligned
    if len(dataset.trials) < cfg.TEST.RUNS:
        dataset.notes.append(f"TEST.RUNS = {cfg.TEST.RUNS}, but {dataset.name} has one fixed split: it is tested once")
    if keys.HOLD_OUT and require_train and dataset.validation is None:
        dataset.notes.append(
            f"DATASETS.HOLD_OUT = True, but {dataset.name} holds out no images: the last epoch is kept"
        )
    if keys.TRAIN_FRACTION < 1 and require_train:
        kept = keep_fraction(dataset, keys.TRAIN_FRACTION, keys.TRAIN_FRACTION_BY, keys.TRAIN_FRACTION_SEED)
        dataset.notes.append(kept)
    if keys.CAMERA_RULE not in ("auto", dataset.camera_rule):
        dataset.use_camera_rule(keys.CAMERA_RULE)
    return dataset


def add_fields(cfg: CfgNode, dataset: ReIDDataset, needs: Container[str]) -> None:
    """Read what a method needs of each image besides its pixels and numbers.

    Args:
        cfg: names the files.
        dataset: its loaders give the fields from now on.
        needs: see :meth:`model.base.Method.needs`.

    Raises:
        ReIDError: a file is missing or lacks an image, or training images are mixed with AugMix.
    """
    if cfg.INPUT.AUGMIX_PROB and dataset.require_train and any(name in needs for name in ("keypoints", *AUGMENTATION)):
        raise ReIDError(
            f"INPUT.AUGMIX_PROB = {cfg.INPUT.AUGMIX_PROB} with MODEL.METHOD = {cfg.MODEL.METHOD}, which follows pixels "
            "through the augmentation: AugMix mixes pictures that are turned and moved differently. Set it to 0."
        )
    if "keypoints" in needs:
        dataset.fields = {"keypoints": point_reader(cfg, dataset, cfg.MODEL.HOREID.POINTS)}
    sources = source_reader(dataset) if "source" in needs else None
    if sources is not None:
        dataset.fields = {**dataset.fields, "source": sources}
        dataset.num_train_sources = sources.training
    own = {name: read for name, read in AUGMENTATION.items() if name in needs}
    if "texture" in needs:
        own["texture"] = texture_reader(cfg, dataset)
    dataset.train_fields = own


def _rule(keys: CfgNode) -> dict:
    return {} if keys.CAMERA_RULE == "auto" else {"camera_rule": keys.CAMERA_RULE}


def _split(keys: CfgNode) -> dict:
    return {"run": keys.RUN, "seed": keys.SPLIT_SEED}


def _hand_split(keys: CfgNode) -> dict:
    return {"gallery": keys.GALLERY, "part": "train" if keys.HOLD_OUT else "train_all", **_split(keys)}


def _listing(keys: CfgNode) -> dict:
    file = keys.LISTING or Path(keys.ROOT_DIR) / "listing.csv"
    return {"file": file, "roles": _roles(keys, ""), "pairs": keys.PAIRS, "draws": _draws(keys), **_rule(keys)}


def _pattern(keys: CfgNode) -> dict:
    naming = {"pattern": keys.PATTERN, "identity": keys.IDENTITY, "camera": keys.CAMERA, "keep": keys.KEEP}
    return {**naming, "roles": _roles(keys, "open"), "pairs": keys.PAIRS, **_rule(keys)}


def _roles(keys: CfgNode, protocol: str) -> Roles:
    """Roles from the configuration; ``protocol`` holds where ``DATASETS.PROTOCOL`` is ``auto``."""
    return Roles(
        protocol if keys.PROTOCOL == "auto" else keys.PROTOCOL,
        train=keys.TRAIN,
        enrol=keys.ENROL,
        probe=keys.PROBE,
        run=keys.RUN,
        seed=keys.SPLIT_SEED,
        hold_out=keys.HOLD_OUT,
    )


def _draws(keys: CfgNode) -> Draws:
    return Draws(keys.RUN, 1, keys.SPLIT_SEED, keys.FOLD, keys.FOLDS, keys.PERSON_SEPARATOR)


def _drawing(keys: CfgNode) -> dict:
    return {
        "train_identities": keys.TRAIN_IDS,
        "test_identities": keys.TEST_IDS,
        "images_per_identity": keys.IMAGES_PER_ID,
        "size": keys.SIZE,
        "seed": keys.SEED,
    }

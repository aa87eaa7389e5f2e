"""The data set that a command names: a configuration, a folder with or without a split, or several sets together."""

from __future__ import annotations

import argparse
from pathlib import Path

from yacs.config import CfgNode

from configs import load_config
from datasets import make_dataset
from datasets.bases import ReIDDataset
from datasets.inspect.merging import merged, named_sources
from datasets.inspect.proposal import Proposed, propose_dataset
from datasets.reading.images import reading_of
from utils.errors import ReIDError


def open_dataset(arguments: argparse.Namespace) -> tuple[CfgNode, ReIDDataset, Proposed | None]:
    """The configuration, the data set that it or ``--root`` names, and what is proposed for a tree without a split.

    Raises:
        ReIDError: there is no such folder, it cannot be read or split, or an argument does not go with it.
    """
    if arguments.merge:
        return *_merged(arguments), None
    if arguments.config_file:
        cfg, _ = load_config(arguments.config_file, arguments.opts)
        return cfg, make_dataset(cfg, require_train=False), None
    root = Path(arguments.root)
    if not root.is_dir():
        raise ReIDError(f"--root {root}: no such folder.")
    if arguments.identity_pattern:
        return *_by_names(root, arguments), None
    marks = {"listing.csv": "listing", "HandInfo.csv": "hand_11k", "train": "hand", "query": "hand", "test": "hand"}
    name = next((name for mark, name in marks.items() if (root / mark).exists()), None)
    if name:
        if arguments.hold_out or arguments.seed:
            raise ReIDError(f"{root}: has a split already; --seed and --hold-out are for folders without one.")
        cfg, _ = load_config(None, ["DATASETS.NAMES", name, "DATASETS.ROOT_DIR", str(root), *arguments.opts])
        return cfg, make_dataset(cfg, require_train=False), None
    options = (arguments.seed, arguments.person_separator, arguments.hold_out)
    proposed = propose_dataset(root, arguments.opts, *options)
    proposed.dataset.notes = [*proposed.facts, *proposed.dataset.notes]
    return proposed.cfg, proposed.dataset, proposed


def _merged(arguments: argparse.Namespace) -> tuple[CfgNode, ReIDDataset]:
    """The configuration and the data set of several sets together."""
    sets = {}
    for name, place in named_sources(arguments.merge).items():
        is_file = Path(place).suffix.lower() in (".yml", ".yaml")
        where = {"config_file": place, "root": None} if is_file else {"config_file": None, "root": place}
        try:
            _, sets[name], _ = open_dataset(argparse.Namespace(**{**vars(arguments), **where, "merge": None}))
        except ReIDError as error:
            raise ReIDError(f"--merge {name}={place}: {error}") from None
    dataset = merged(sets)
    cfg, _ = load_config(None, [*arguments.opts, "DATASETS.NAMES", "listing", "DATASETS.ROOT_DIR", str(dataset.root)])
    dataset.reading = reading_of(cfg, dataset.boxes)
    return cfg, dataset


def _by_names(root: Path, arguments: argparse.Namespace) -> tuple[CfgNode, ReIDDataset]:
    """A proposed split of files whose names say whose hands they show."""
    keys = {"NAMES": "pattern", "ROOT_DIR": str(root), "PATTERN": f"(?:.*/)?{arguments.identity_pattern}[^/]*"}
    keys |= {"PROTOCOL": "open", "TRAIN": "{person: 50%}", "SPLIT_SEED": str(arguments.seed)}
    keys |= {"HOLD_OUT": "True"} if arguments.hold_out else {}
    words = [word for key, value in keys.items() for word in (f"DATASETS.{key}", value)]
    cfg, _ = load_config(None, [*words, *arguments.opts])
    return cfg, make_dataset(cfg, require_train=False)

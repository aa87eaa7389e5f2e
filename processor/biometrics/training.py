"""Features of training people: cohort of score normalisation, scores for fitting fusion and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from datasets.reading.images import ImageDataset
from model.base import Batch, Method
from utils.biometric.comparisons import Crossing
from utils.compute.device import choose_precision
from utils.console.interrupt import check_interrupt
from utils.console.progress import counted
from utils.errors import ReIDError
from utils.retrieval.features import Features

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import Record, ReIDDataset

MOST_IMAGES = 2000
"""Training images that are read at most: whole people, drawn with the seed."""


@dataclass(frozen=True)
class TrainingFeatures:
    """Features of training images.

    Attributes:
        features: with training identities and cameras.
        records: the images.
        people: whom each shows.
        apart: only images of different cameras (sessions) are compared, as in the test.
    """

    features: Features
    records: Sequence[Record]
    people: Sequence[str]
    apart: bool

    def crossing(self) -> Crossing:
        """Each pair of different images once; where the test compares across cameras, so does this."""
        rule = "market" if self.apart else "none"
        return Crossing(self.features, self.features, rule, once=True)

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Genuine and impostor scores; pairs of two hands of one person count as neither."""
        _, person = np.unique(np.asarray(self.people), return_inverse=True)
        person = torch.from_numpy(person)
        genuine, impostor = [], []
        for block in self.crossing().blocks():
            genuine.append(block.scores[block.counted & block.same])
            other = person[block.queries, None] != person
            if self.apart:
                other &= self.features.camids[block.queries, None] != self.features.camids
            impostor.append(block.scores[block.counted & other])
        return torch.cat(genuine).numpy(), torch.cat(impostor).numpy()


def needs_training(keys: CfgNode) -> list[str]:
    """The keys that need scores of training people."""
    wanted = {
        "TEST.SCORE_NORM": keys.SCORE_NORM != "none",
        "TEST.FUSE": keys.FUSE != "none",
        "TEST.CALIBRATION": keys.CALIBRATION,
    }
    return [key for key, on in wanted.items() if on]


def training_features(
    cfg: CfgNode,
    dataset: ReIDDataset,
    model: Method,
    loader: DataLoader,
    device: torch.device,
    most: int = MOST_IMAGES,
) -> TrainingFeatures:
    """Test features of at most ``most`` training images, read and prepared as the test images of ``loader``.

    Raises:
        ReIDError: there are no training images.
    """
    if not dataset.train:
        wanted = needs_training(cfg.TEST) or ["TEST.FUSE_LOCAL fit"]
        raise ReIDError(
            f"{', '.join(wanted)}: {dataset.name} has no training images here, and the people of the test must not be "
            "used. Put the training images beside the test images, or switch it off."
        )
    names = dataset.train_identities
    records = _sample([(dataset.person(r) or names[r.pid], r) for r in dataset.train], cfg.DATASETS.SPLIT_SEED, most)
    images = ImageDataset(records, loader.dataset.transform, read=loader.dataset.read)
    features = []
    model.eval()
    precision = choose_precision(cfg.TEST.PRECISION, device)
    with torch.no_grad():
        for loaded in counted(DataLoader(images, loader.batch_size, collate_fn=loader.collate_fn), "training features"):
            check_interrupt("evaluation")
            with precision.autocast():
                feature = model.test_feature(Batch.of(loaded, model.inputs, device), cfg.TEST.FLIP)
            features.append(F.normalize(feature.float()).cpu())
    labels = ([getattr(record, name) for record in records] for name in ("pid", "camid"))
    people = [dataset.person(record) or names[record.pid] for record in records]
    return TrainingFeatures(Features(torch.cat(features), *labels), records, people, _across_cameras(dataset, records))


def _sample(named: Sequence[tuple[str, Record]], seed: int, most: int) -> list[Record]:
    """Images of whole people, at most ``most`` but at least those of two people."""
    people = sorted({person for person, _ in named})
    order = np.random.default_rng(seed).permutation(len(people))
    images: dict[str, list[Record]] = {}
    for person, record in named:
        images.setdefault(person, []).append(record)
    chosen: list[Record] = []
    for number, place in enumerate(order):
        own = images[people[place]]
        if number >= 2 and len(chosen) + len(own) > most:
            break
        chosen += own
    return sorted(chosen)


def _across_cameras(dataset: ReIDDataset, records: Sequence[Record]) -> bool:
    """Whether no test pair of one identity is under one camera although there are several, and training has both."""
    query = {(record.pid, record.camid) for record in dataset.query}
    gallery = {(record.pid, record.camid) for record in dataset.gallery}
    market = dataset.camera_rule == "market"
    return len({record.camid for record in records}) > 1 and (market or not query & gallery)

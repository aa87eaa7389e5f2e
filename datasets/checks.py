"""Checks of a data set before training."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from datasets.bases import WARNING, ReIDDataset, some
from datasets.make_dataloader_clipreid import make_sampler
from datasets.reading.images import Facts, examine, look_over
from datasets.reading.levels import file_notes, level_notes, unknown_white
from datasets.reading.mirroring import mirroring_notes
from datasets.reading.workers import num_workers
from utils.compute.distributed import gather_objects, shard_of, world_size
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.words import number_of

if TYPE_CHECKING:
    from yacs.config import CfgNode


def check_data(cfg: CfgNode, dataset: ReIDDataset) -> None:
    """Check a data set before training: fatal problems are raised, minor ones are logged as notes.

    Where only a test is wanted, training images are not looked at.

    Raises:
        ReIDError: unreadable images (unless ``DATASETS.BAD_IMAGES`` is ``skip``), fewer identities than a batch
            needs, cameras or views in the test set that the side information has never seen.
    """
    if cfg.DATASETS.CHECK_IMAGES or cfg.DATASETS.BAD_IMAGES == "skip":
        _check_images(cfg, dataset)
        dataset.notes += _note_copies(cfg, dataset)
    if dataset.require_train:
        _check_batches(cfg, dataset)
        _check_side_information(cfg, dataset)
    if len(dataset.gallery) < 50:
        images = number_of(len(dataset.gallery), "image")
        dataset.notes.append(f"the gallery has {images}: CMC keeps its last value up to rank 50")
    dataset.notes += [*dataset.trivial(), *mirroring_notes(cfg, dataset)]
    trained = number_of(len(dataset.train), "training image")
    people = number_of(dataset.num_train_pids, "identity", "identities")
    queries, gallery = len(dataset.query), number_of(len(dataset.gallery), "gallery image")
    LOGGER.info("%s: %s of %s, %d query and %s", dataset.name, trained, people, queries, gallery)
    for note in dataset.notes:
        if note.startswith(WARNING):
            LOGGER.warning("%s", note.removeprefix(WARNING))
        else:
            LOGGER.info("note: %s", note)


def _check_images(cfg: CfgNode, dataset: ReIDDataset) -> None:
    train = [*dataset.train, *dataset.val] if dataset.require_train else []
    paths = [record.path for record in (*train, *dataset.test_images)]
    facts = _examine_all(cfg, dataset, paths)
    unknown = unknown_white(facts)
    if unknown:
        raise ReIDError(f"{dataset.name}: {unknown}")
    dataset.notes += [*level_notes(facts.values()), *file_notes(facts)]
    broken = {path: found.unreadable for path, found in facts.items() if found.unreadable}
    if not broken:
        return
    listed = "; ".join(f"{path} ({reason})" for path, reason in list(broken.items())[:5])
    more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
    found = f"{len(broken)} of {len(set(paths))} images cannot be read: {listed}{more}"
    if cfg.DATASETS.BAD_IMAGES == "error":
        raise ReIDError(
            f"{dataset.name}: {found}. Replace or remove them, or set DATASETS.BAD_IMAGES to skip to leave them out."
        )
    try:
        dataset.leave_out(broken)
    except ReIDError as error:
        raise ReIDError(f"{error} Unreadable images had been left out: {found}.") from None
    dataset.notes.append(f"{found}; left out")


def _note_copies(cfg: CfgNode, dataset: ReIDDataset) -> list[str]:
    """A warning on queries whose file is in the gallery under another name: their first match is a copy."""
    query, gallery = ({r.path: _size(r.path) for r in part} for part in (dataset.query, dataset.gallery))
    shared = set(query.values()) & set(gallery.values())
    alike = [path for path, size in {**query, **gallery}.items() if size in shared]
    digests = look_over(alike, num_workers(cfg), _digest)
    enrolled: dict[bytes, list[str]] = defaultdict(list)
    for path in gallery.keys() & digests.keys():
        enrolled[digests[path]].append(path)
    twins = {path: min(set(enrolled[digests[path]]) - {path}, default="") for path in query if path in digests}
    pairs = [f"{path} = {twin}" for path, twin in twins.items() if twin]
    if not pairs:
        return []
    queries = number_of(len(pairs), "query is", "queries are")
    return [
        f"{WARNING}{queries} also in the gallery, as identical files under other names, so their first match is a "
        f"copy: {some(pairs)}. "
        "python -m datasets.inspect --drop-duplicates --write-listing FILE leaves them out"
    ]


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- a Path each is slow
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:  # reading it will say why
        return path.encode(errors="surrogateescape")


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)  # noqa: PTH202
    except OSError:  # reading it will say why
        return -1


def _examine_all(cfg: CfgNode, dataset: ReIDDataset, paths: Sequence[str]) -> dict[str, Facts]:
    """Unusual properties of files by path; each process checks its share of the files."""
    mine = [paths[i] for i in shard_of(len(paths))]
    seen = look_over(mine, num_workers(cfg), partial(examine, reading=dataset.reading))
    odd = {path: found for path, found in seen.items() if found != Facts()}
    return {path: found for part in gather_objects(odd) for path, found in part.items()}


def _check_batches(cfg: CfgNode, dataset: ReIDDataset) -> None:
    """PK batches need P identities; those with fewer than K images are drawn with replacement."""
    if 2 not in cfg.SOLVER.STAGES:
        return
    batch, instances = cfg.SOLVER.STAGE2.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
    if cfg.DATALOADER.SAMPLER == "pairs":
        _check_pairs(batch, dataset)
        return
    shuffled = cfg.DATALOADER.SAMPLER == "softmax"
    _check_shares(batch, 1 if shuffled else instances)
    if shuffled:
        parts = cfg.SOLVER.STAGE2.MICRO_BATCHES
        if world_size() > 1 and cfg.SOLVER.SYNC_BN and parts > 1 and not cfg.DATALOADER.DROP_LAST:
            raise ReIDError(
                f"SOLVER.SYNC_BN with SOLVER.STAGE2.MICRO_BATCHES = {parts} on several processes: they would divide a "
                "smaller last batch into different numbers of parts and never finish. "
                "Set DATALOADER.DROP_LAST to True."
            )
        if cfg.DATALOADER.DROP_LAST and len(dataset.train) < batch:
            raise ReIDError(
                f"{dataset.name}: DATALOADER.DROP_LAST leaves no batch of {batch} images (SOLVER.STAGE2.IMS_PER_BATCH) "
                f"of the {len(dataset.train)} in the train set. Switch it off or make the batch smaller."
            )
        return
    if dataset.num_train_pids < batch // instances:
        raise ReIDError(
            f"{dataset.name}: the train set has {dataset.num_train_pids} identities; a batch of {batch} images "
            f"(SOLVER.STAGE2.IMS_PER_BATCH) with {instances} each (DATALOADER.NUM_INSTANCE) needs "
            f"{batch // instances}. Set SOLVER.STAGE2.IMS_PER_BATCH to {dataset.num_train_pids * instances} or less."
        )
    dataset.notes += _note_coverage(cfg, dataset)
    counts = torch.bincount(torch.tensor([record.pid for record in dataset.train]))
    few = int((counts < instances).sum())
    if few:
        ones = int((counts == 1).sum())
        without_pairs = "; no identity has two images to learn from" if ones == dataset.num_train_pids else ""
        dataset.notes.append(
            f"{few} of {dataset.num_train_pids} training identities have fewer than {instances} images "
            f"({ones} have one): their images are repeated within a batch{without_pairs}"
        )


def _note_coverage(cfg: CfgNode, dataset: ReIDDataset) -> list[str]:
    """What an epoch of PK batches covers, counted in the first: an incomplete last batch leaves identities out."""
    sampler = make_sampler(cfg, dataset, cfg.SOLVER.STAGE2.IMS_PER_BATCH)
    drawn = {int(index) for batch in sampler.plan(np.random.default_rng((sampler.seed, 1))) for index in batch}
    people, images = {dataset.train[index].pid for index in drawn}, len(dataset.train)
    batches = number_of(len(sampler), "PK batch", "PK batches")
    covered = f"{len(drawn)} of {images} training images and {len(people)} of {dataset.num_train_pids} identities"
    line = f"an epoch is {batches} with {covered}"
    if 2 * len(drawn) >= images:
        return [line]
    return [
        f"{WARNING}{line}: the epoch ends when too few identities have images left. Lower DATALOADER.NUM_INSTANCE or "
        "SOLVER.STAGE2.IMS_PER_BATCH, or train more epochs"
    ]


def _check_pairs(batch: int, dataset: ReIDDataset) -> None:
    """A batch of pairs needs as many identities as pairs; those with one image have no pair."""
    _check_shares(batch, 2)
    counts = torch.bincount(torch.tensor([record.pid for record in dataset.train]))
    able, single = int((counts > 1).sum()), int((counts == 1).sum())
    if able < batch // 2:
        raise ReIDError(
            f"{dataset.name}: {able} training identities have two or more images; {batch // 2} pairs of different "
            f"identities (SOLVER.STAGE2.IMS_PER_BATCH = {batch}) need {batch // 2}. Set it to {2 * able} or less."
        )
    if single:
        dataset.notes.append(f"{single} of {dataset.num_train_pids} training identities have one image: left out")


def _check_shares(batch: int, unit: int) -> None:
    """Every process needs the same number of images, in whole identities."""
    step = unit * world_size()
    if batch % step:
        of = f" of whole identities with {unit} images each (DATALOADER.NUM_INSTANCE)" if unit > 1 else ""
        raise ReIDError(
            f"SOLVER.STAGE2.IMS_PER_BATCH = {batch} is the batch of all {world_size()} processes together and cannot "
            f"be divided into equal shares{of}. The nearest that can: {max(1, round(batch / step)) * step}."
        )


def _check_side_information(cfg: CfgNode, dataset: ReIDDataset) -> None:
    """The model learns an embedding for each camera or view seen in training; others would have none."""
    test = dataset.test_images
    for key, word, seen, labels in (
        ("SIE_CAMERA", "cameras", dataset.num_train_cams, [record.camid for record in test]),
        ("SIE_VIEW", "views", dataset.num_train_views, [record.viewid for record in test]),
    ):
        unseen = [record.path for record, label in zip(test, labels, strict=True) if label >= seen]
        if cfg.MODEL[key] and unseen:
            raise ReIDError(
                f"MODEL.{key} is on, but {len(unseen)} of {len(test)} test images of {dataset.name} are of {word} "
                f"that no training image shows (training has {seen}): {some(unseen)}. Switch it off, or train with "
                f"images of all {word}."
            )

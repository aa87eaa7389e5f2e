"""From the configuration to checked data and the three loaders of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import DataLoader

from datasets.bases import Record, ReIDDataset, number_of, some
from datasets.image_cache import Read, make_readers, resized_size
from datasets.images import ImageDataset, find_unreadable
from datasets.mirroring import mirroring_notes
from datasets.preprocessing import test_transform, train_transform
from datasets.sampler import EpochBatches, PKBatchSampler, ShuffledBatches
from utils.distributed import gather_objects, local_world_size, shard_of, world_size
from utils.errors import ReIDError
from utils.interrupt import ignore_signals
from utils.logger import LOGGER

if TYPE_CHECKING:
    from yacs.config import CfgNode


class Loaders(NamedTuple):
    """What the two stages and the evaluation read from.

    Every batch is ``(images [B, 3, H, W], pids [B], camids [B], viewids [B], indices [B])``. Of several processes, each
    reads its share: of every batch of stage 2, and of the images that are visited once.

    Attributes:
        stage1: all training images once, in order, without augmentation.
        stage2: augmented training batches; its batch sampler's ``set_epoch`` plans an epoch.
        test: the images of all trials, each once; query and gallery of the first come first.
        validation: those of ``dataset.validation``, None where there is none.
    """

    stage1: DataLoader | None
    stage2: DataLoader | None
    test: DataLoader
    validation: DataLoader | None = None


def make_dataloader(cfg: CfgNode, dataset: ReIDDataset) -> Loaders:
    """Build the loaders of ``dataset``; where only a test is wanted, the first two are None.

    They draw from generators of their own, so reading images leaves the process's random numbers alone.
    """
    size, mean, std = cfg.INPUT.SIZE_TRAIN, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    how = {"interpolation": cfg.INPUT.INTERPOLATION_TEST, "fit": cfg.INPUT.FIT_TEST}
    plain = test_transform(cfg.INPUT.SIZE_TEST, mean, std, **how)
    workers = num_workers(cfg)

    def loader(images: ImageDataset, **how: object) -> DataLoader:
        return DataLoader(
            images,
            num_workers=workers,
            persistent_workers=workers > 0 and "batch_sampler" in how,
            pin_memory=cfg.MODEL.DEVICE in ("auto", "cuda") and torch.cuda.is_available(),
            generator=torch.Generator(),
            worker_init_fn=ignore_signals,
            **how,
        )

    readers = make_readers(cfg, dataset)

    def untouched(records: Iterable[Record], read: Read) -> DataLoader:
        images = ImageDataset(records, plain, read=read)
        return loader(images, batch_size=cfg.TEST.IMS_PER_BATCH, sampler=shard_of(len(images)))

    test_loader = untouched(dataset.test_images, readers.test)
    if not dataset.require_train:
        return Loaders(None, None, test_loader)
    augmented = train_transform(
        size,
        mean,
        std,
        resize=resized_size(cfg),
        interpolation=cfg.INPUT.INTERPOLATION_TRAIN,
        flip=cfg.INPUT.PROB,
        rotation=cfg.INPUT.ROTATION,
        jitter=cfg.INPUT.COLOR_JITTER,
        padding=cfg.INPUT.PADDING,
        erasing=cfg.INPUT.RE_PROB,
    )
    validation = dataset.validation
    return Loaders(
        untouched(dataset.train, readers.stage1),
        loader(ImageDataset(dataset.train, augmented, read=readers.stage2), batch_sampler=make_sampler(cfg, dataset)),
        test_loader,
        untouched(validation.images, readers.test) if validation else None,
    )


def make_sampler(cfg: CfgNode, dataset: ReIDDataset) -> EpochBatches:
    """The batch sampler that ``DATALOADER.SAMPLER`` names."""
    batch_size = cfg.SOLVER.STAGE2.IMS_PER_BATCH
    if cfg.DATALOADER.SAMPLER == "softmax":
        smallest = batch_size if cfg.DATALOADER.DROP_LAST else max(2, world_size())
        return ShuffledBatches(len(dataset.train), batch_size, cfg.SOLVER.SEED, shard_of, smallest)
    pids = [record.pid for record in dataset.train]
    return PKBatchSampler(pids, batch_size, cfg.DATALOADER.NUM_INSTANCE, cfg.SOLVER.SEED, shard_of)


def num_workers(cfg: CfgNode) -> int:
    """``DATALOADER.NUM_WORKERS``, at most one for each core; processes on one machine divide its cores."""
    return min(cfg.DATALOADER.NUM_WORKERS, max((os.cpu_count() or 1) // local_world_size(), 1))


def check_data(cfg: CfgNode, dataset: ReIDDataset) -> None:
    """Find out before training what would break it later; what a run can live with is noted and logged.

    Where only a test is wanted, training images are not looked at.

    Raises:
        ReIDError: unreadable images (unless ``DATASETS.BAD_IMAGES`` is ``skip``), fewer identities than a batch
            needs, cameras or views in the test set that the side information has never seen.
    """
    if cfg.DATASETS.CHECK_IMAGES or cfg.DATASETS.BAD_IMAGES == "skip":
        _check_images(cfg, dataset)
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
        LOGGER.info("note: %s", note)


def _check_images(cfg: CfgNode, dataset: ReIDDataset) -> None:
    train = [*dataset.train, *dataset.val] if dataset.require_train else []
    paths = [record.path for record in (*train, *dataset.test_images)]
    mine = [paths[i] for i in shard_of(len(paths))]
    broken: dict[str, str] = {}
    for found in gather_objects(find_unreadable(mine, num_workers(cfg), cfg.INPUT.EXIF)):
        broken |= found
    if not broken:
        return
    listed = "; ".join(f"{path} ({reason})" for path, reason in list(broken.items())[:5])
    more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
    found = f"{len(broken)} of {len(set(paths))} images cannot be read: {listed}{more}"
    if cfg.DATASETS.BAD_IMAGES == "error":
        raise ReIDError(
            f"{dataset.name}: {found}. Repair or remove them, or set DATASETS.BAD_IMAGES to skip to go on without them."
        )
    try:
        dataset.leave_out(broken)
    except ReIDError as error:
        raise ReIDError(f"{error} Without its broken images, that is: {found}.") from None
    dataset.notes.append(f"{found}; left out")


def _check_batches(cfg: CfgNode, dataset: ReIDDataset) -> None:
    """PK batches need P identities; those with fewer than K images are drawn with replacement."""
    if 2 not in cfg.SOLVER.STAGES:
        return
    batch, instances = cfg.SOLVER.STAGE2.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
    shuffled = cfg.DATALOADER.SAMPLER == "softmax"
    _check_shares(batch, 1 if shuffled else instances)
    if shuffled:
        parts = cfg.SOLVER.STAGE2.ACCUMULATE
        if world_size() > 1 and cfg.SOLVER.SYNC_BN and parts > 1 and not cfg.DATALOADER.DROP_LAST:
            raise ReIDError(
                f"SOLVER.SYNC_BN with SOLVER.STAGE2.ACCUMULATE = {parts} on several processes: these would cut a "
                "smaller last batch into different numbers of parts and wait for each other. "
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
    counts = torch.bincount(torch.tensor([record.pid for record in dataset.train]))
    few = int((counts < instances).sum())
    if few:
        dataset.notes.append(
            f"{few} of {dataset.num_train_pids} training identities have fewer than {instances} images "
            f"({int((counts == 1).sum())} have one): their images are repeated within a batch"
        )


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

"""From the configuration to the loaders of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.bases import Record, ReIDDataset
from datasets.caches.image_cache import Read, Readers, make_readers, resized_size
from datasets.preprocessing import ENLARGED, test_transform, train_transform
from datasets.reading.images import ImageDataset
from datasets.reading.pictures import collate
from datasets.reading.workers import num_workers
from datasets.sampler import EpochBatches, PairBatches, PKBatchSampler, ShuffledBatches
from utils.compute.distributed import shard_of, world_size
from utils.console.interrupt import ignore_signals
from utils.console.logger import LOGGER
from utils.images import read_image

if TYPE_CHECKING:
    from yacs.config import CfgNode


class Loaders(NamedTuple):
    """What the two stages and the evaluation read from.

    Every batch is a dict of ``images``, :class:`~datasets.reading.pictures.Pictures`, and of the tensors ``labels``,
    ``cameras``, ``views``, ``index`` [B]. Of several processes, each reads its share: of every augmented batch, and of
    the images that are visited once.

    Attributes:
        plain: all training images once, in order, without augmentation.
        augmented: from the number of a stage to its training batches; their batch sampler's ``set_epoch`` plans an
            epoch.
        test: the images of all trials, each once; query and gallery of the first come first.
        validation: those of ``dataset.validation``, None where there is none.
    """

    plain: DataLoader | None
    augmented: Callable[[int], DataLoader] | None
    test: DataLoader
    validation: DataLoader | None = None


def make_dataloader(
    cfg: CfgNode, dataset: ReIDDataset, sentences: Callable[[str, int], Mapping[str, Tensor]] | None = None
) -> Loaders:
    """Build the loaders of ``dataset``; where only a test is wanted, the first two are None.

    They draw from generators of their own, so reading images leaves the process's random numbers alone.

    Args:
        cfg: the configuration.
        dataset: where the images are.
        sentences: from the path of a training image and a seed to tokens by name. The batches of stage 0 then have
            these fields and are shuffled, whatever the sampler: images of one identity share sentences.
    """
    size, mean, std = cfg.INPUT.SIZE_TRAIN, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    how = {"interpolation": cfg.INPUT.INTERPOLATION_TEST, "fit": cfg.INPUT.FIT_TEST}
    plain = test_transform(cfg.INPUT.SIZE_TEST, mean, std, **how)
    workers = num_workers(cfg)

    def loader(images: ImageDataset, **how: object) -> DataLoader:
        return DataLoader(
            images,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0 and "batch_sampler" in how,
            pin_memory=cfg.MODEL.DEVICE in ("auto", "cuda") and torch.cuda.is_available(),
            generator=torch.Generator(),
            worker_init_fn=ignore_signals,
            **how,
        )

    readers = make_readers(cfg, dataset)

    def untouched(records: Iterable[Record], read: Read) -> DataLoader:
        images = ImageDataset(records, plain, read=read, fields=dataset.fields)
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
        fit=cfg.INPUT.FIT_TRAIN,
        flip=cfg.INPUT.PROB,
        translation=cfg.INPUT.TRANSLATION,
        rotation=cfg.INPUT.ROTATION,
        grey=cfg.INPUT.GREY_PROB,
        jitter=_colour_ranges(cfg),
        jitter_probability=cfg.INPUT.COLOR_PROB,
        jitter_first=cfg.INPUT.COLOR_FIRST,
        padding=cfg.INPUT.PADDING,
        erasing=cfg.INPUT.RE_PROB,
        erasing_area=cfg.INPUT.RE_AREA,
        erasing_value=cfg.INPUT.RE_VALUE if cfg.INPUT.RE_FILL == "value" else cfg.INPUT.RE_FILL,
        cutout=cfg.INPUT.CUTOUT,
        cutout_side=cfg.INPUT.CUTOUT_SIZE,
        augmix=cfg.INPUT.AUGMIX_PROB,
    )
    read, fields = _training_reader(cfg, dataset, readers), {**dataset.fields, **dataset.train_fields}

    def batches_of(stage: int) -> DataLoader:
        said = sentences if stage == 0 else None
        images = ImageDataset(dataset.train, augmented, read, fields, said)
        kind = "softmax" if said else cfg.DATALOADER.SAMPLER
        size = cfg.SOLVER[f"STAGE{stage}"].IMS_PER_BATCH
        return loader(images, batch_sampler=make_sampler(cfg, dataset, size, kind))

    validation = dataset.validation
    return Loaders(
        untouched(dataset.train, readers.stage1),
        batches_of,
        test_loader,
        untouched(validation.images, readers.test) if validation else None,
    )


def _colour_ranges(cfg: CfgNode) -> float | Sequence[float]:
    return cfg.INPUT.COLOR_RANGES if any(cfg.INPUT.COLOR_RANGES) else cfg.INPUT.COLOR_JITTER


def _training_reader(cfg: CfgNode, dataset: ReIDDataset, readers: Readers) -> Read:
    """Whole pictures where a random step stands in front of the resize; a cache would keep resized ones."""
    colours_first = cfg.INPUT.COLOR_FIRST and _colour_ranges(cfg) and cfg.INPUT.COLOR_PROB
    if not cfg.INPUT.TRANSLATION and not colours_first:
        return readers.stage2
    at_least = round(ENLARGED * max(resized_size(cfg))) if cfg.INPUT.JPEG_DRAFT else None
    LOGGER.info("INPUT.TRANSLATION, INPUT.COLOR_FIRST: training images are read whole, DATASETS.CACHE keeps none")
    return partial(read_image, reading=dataset.reading, at_least=at_least)


def make_sampler(cfg: CfgNode, dataset: ReIDDataset, batch_size: int, kind: str = "") -> EpochBatches:
    """The batch sampler ``kind``, a value of ``DATALOADER.SAMPLER`` and by default its own."""
    sampler = _sampler(cfg, dataset, batch_size, kind or cfg.DATALOADER.SAMPLER)
    if cfg.DATALOADER.EPOCH_BATCHES:
        sampler.length = cfg.DATALOADER.EPOCH_BATCHES
        sampler.set_epoch(1)
    return sampler


def _sampler(cfg: CfgNode, dataset: ReIDDataset, batch_size: int, kind: str) -> EpochBatches:
    if kind == "softmax":
        smallest = batch_size if cfg.DATALOADER.DROP_LAST else max(2, world_size())
        return ShuffledBatches(len(dataset.train), batch_size, cfg.SOLVER.SEED, shard_of, smallest)
    pids = [record.pid for record in dataset.train]
    if kind == "pairs":
        return PairBatches(pids, batch_size, cfg.SOLVER.SEED, shard_of)
    once = cfg.DATALOADER.EPOCH == "identities"
    return PKBatchSampler(pids, batch_size, cfg.DATALOADER.NUM_INSTANCE, cfg.SOLVER.SEED, shard_of, once)

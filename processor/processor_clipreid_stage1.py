"""Stage 1 of CLIP-ReID: learn one prompt per identity with both encoders frozen (arXiv 2211.13977, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from processor.runs.run import Run
from processor.train_step import StepResult
from processor.training_loop import Scheduler, due, train_epochs
from utils.checkpoint import model_file, save_model
from utils.distributed import gather_objects, share_from_main
from utils.interrupt import check_interrupt
from utils.logger import LOGGER
from utils.progress import counted

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from model.methods.baseline import ImageReID

Order = Callable[[int], Tensor]
"""From the epoch (1-based) to the order in which the images are visited [N]."""


def do_train_stage1(
    cfg: CfgNode,
    model: ImageReID,
    loader: DataLoader,
    optimizer: Optimizer,
    scheduler: Scheduler,
    run: Run,
    order: Order | None = None,
) -> None:
    """Train the prompts against the image features of the training set.

    Neither images nor image encoder change, so each image's feature is computed once, in eval mode and without side
    information, and kept on the device.

    Args:
        cfg: ``SOLVER.STAGE1``, ``SOLVER.SEED`` and ``MODEL.NAME`` are read.
        model: with its image and text encoders; only the prompts may require gradients.
        loader: all training images once, without augmentation.
        optimizer, scheduler: of the prompts.
        run: device, precision, output folder.
        order: visiting order, random from ``SOLVER.SEED`` when None.
    """
    stage = cfg.SOLVER.STAGE1
    run.note_trained(model)
    if run.position.stage > 1:
        return
    features, labels = collect_image_features(model, loader, run)
    order = order or _random_order(len(labels), cfg.SOLVER.SEED)
    model.train()

    def batches(epoch: int, skip: int) -> list[Tensor]:
        return list(order(epoch).to(run.device).split(stage.IMS_PER_BATCH))[skip:]

    def names(batch: Tensor) -> list[str]:
        return [loader.dataset.records[index].path for index in batch.tolist()]

    def step(batch: Tensor) -> StepResult:
        total, parts = model.stage1_loss(features[batch], labels[batch])
        return StepResult(total, parts, len(batch))

    def after_epoch(epoch: int) -> None:
        if due(epoch, stage.CHECKPOINT_PERIOD, stage.MAX_EPOCHS):
            save_model(model, model_file(run.output_dir, cfg.MODEL.NAME, f"stage1_{epoch}"))

    train_epochs(
        1,
        run=run,
        epochs=stage.MAX_EPOCHS,
        log_period=stage.LOG_PERIOD,
        clip=stage.CLIP_GRAD,
        batches=batches,
        names=names,
        step=step,
        parts={"model": model},
        optimizers=[optimizer],
        scheduler=scheduler,
        after_epoch=after_epoch,
    )


@torch.no_grad()
def collect_image_features(
    model: ImageReID, loader: DataLoader, run: Run, encode: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Features [N, E] and labels [N] of all training images, in order.

    Several processes compute a share each, and all of them get all.

    Args:
        model: put into eval mode; of several processes' running statistics, those of the first count.
        loader: all training images once, without augmentation.
        run: device, precision.
        encode: images [B, 3, H, W], cameras [B], views [B] -> features [B, E]; when None, the projected ones without
            side information.
    """
    encode = encode or (lambda images, *labels: model.encode_image(images).projected)
    share_from_main(model.buffers())
    model.eval()
    LOGGER.info("computing the features of %d training images", len(loader.dataset))
    batches = []
    for images, pids, camids, viewids, *_ in counted(loader, "image features"):
        check_interrupt("the features of the training images")
        with run.precision.autocast():
            inputs = (part.to(run.device) for part in (images, camids, viewids))
            batches.append((encode(*inputs).float().cpu(), pids.clone()))  # a copy: a worker's tensors keep files open
    gathered = [batch for share in gather_objects(batches) for batch in share]
    features, labels = (torch.cat(part).to(run.device) for part in zip(*gathered, strict=True))
    return features, labels


def _random_order(count: int, seed: int) -> Order:
    def order(epoch: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((seed, 1, epoch)).permutation(count))

    return order

"""Stages on cached outputs, such as stage 1 of CLIP-ReID: one prompt per identity is learned while both encoders are
frozen (arXiv 2211.13977, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from model.backbones.base import Outputs
from model.base import Batch, Method, Progress, Stage
from processor.runs.run import Run
from processor.training.alignment import StageAlignment
from processor.training.train_set import PlainImages
from processor.training.training_loop import Scheduler, StagePlan, due, train_epochs
from utils.files.checkpoint import model_file, save_model

if TYPE_CHECKING:
    from yacs.config import CfgNode

Order = Callable[[int], Tensor]
"""From the epoch (1-based) to the order in which the images are visited [N]."""


def do_train_stage1(
    cfg: CfgNode,
    method: Method,
    stage: Stage,
    loader: DataLoader,
    optimizers: Sequence[Optimizer],
    scheduler: Scheduler,
    run: Run,
    order: Order | None = None,
) -> None:
    """Train on outputs that do not change: each image's are computed once and kept on the device.

    They are computed in eval mode, without augmentation and without side information.

    Args:
        cfg: ``SOLVER.STAGE<n>``, ``SOLVER.SEED`` and ``MODEL.NAME`` are read.
        method: in front of the seam nothing may require gradients.
        stage: its ``cached`` outputs are what the losses read.
        loader: all training images once, without augmentation.
        optimizers, scheduler: of this stage.
        run: device, precision, output folder.
        order: visiting order, random from ``SOLVER.SEED`` when None.
    """
    solver = cfg.SOLVER[f"STAGE{stage.number}"]
    run.note_trained(method)
    if run.position.stage > stage.number:
        return
    images = PlainImages(method, loader, run.precision, method.needs(cfg, training=True))
    cached, labels = _cached(images, stage)
    features = (cached["projected"], labels) if "projected" in cached else None
    alignment = StageAlignment(method, run, stage.number, images, features)
    order = order or _random_order(len(labels), cfg.SOLVER.SEED, stage.number)

    def batches(epoch: int, skip: int) -> list[Batch]:
        rows = order(epoch).to(run.device).split(solver.IMS_PER_BATCH)[skip:]
        return [Batch(rows_of, labels[rows_of], index=rows_of) for rows_of in rows]

    def outputs(batch: Batch, at: Progress) -> tuple[Outputs, Tensor]:
        return {name: rows[batch.index] for name, rows in cached.items()}, batch.labels

    def after_epoch(epoch: int) -> dict[str, float]:
        if due(epoch, solver.CHECKPOINT_PERIOD, solver.MAX_EPOCHS):
            save_model(method.checkpoint(), model_file(run.output_dir, cfg.MODEL.NAME, f"stage{stage.number}_{epoch}"))
        return alignment.after(epoch, solver.MAX_EPOCHS)

    plan = StagePlan(
        stage,
        solver,
        batches=batches,
        outputs=outputs,
        dataset=loader.dataset,
        images=images,
        optimizers=optimizers,
        scheduler=scheduler,
        frozen=method.frozen,
        after_epoch=after_epoch,
    )
    alignment.begin()
    train_epochs(plan, method, run)


def _cached(images: PlainImages, stage: Stage) -> tuple[Outputs, Tensor]:
    """The cached outputs of all images [N, ...] and their labels [N]."""
    found = {name: images.features(lambda outputs, name=name: outputs[name], side=False) for name in stage.cached}
    return {name: rows for name, (rows, _) in found.items()}, next(iter(found.values()))[1]


def _random_order(count: int, seed: int, stage: int) -> Order:
    def order(epoch: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((seed, stage, epoch)).permutation(count))

    return order

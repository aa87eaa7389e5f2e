"""Stage 2 of CLIP-ReID: fine-tune the image encoder (arXiv 2211.13977, section 3.3), and the inference after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from loss.make_loss import Stage2Loss
from processor.evaluation import Evaluation, evaluate_model, validate_model
from processor.processor_clipreid_stage1 import collect_image_features
from processor.runs.run import Run
from processor.train_step import Batch, StepResult
from processor.training_loop import Scheduler, due, train_epochs
from utils.checkpoint import load_model, model_file, save_model
from utils.distributed import on_main_process, share_from_main
from utils.logger import LOGGER
from utils.metrics import RankingMetrics

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import QueryGallerySplit, Record
    from model.methods.baseline import ImageReID


def do_train_stage2(
    cfg: CfgNode,
    model: ImageReID,
    loader: DataLoader,
    criterion: Stage2Loss,
    optimizers: Sequence[Optimizer],
    scheduler: Scheduler,
    run: Run,
    evaluate: Callable[[], Evaluation | None],
    validate: Callable[[], RankingMetrics] | None = None,
    plain_loader: DataLoader | None = None,
) -> None:
    """Train the image encoder with ID and triplet losses and what the method adds (CLIP-ReID: image-to-text).

    Args:
        cfg: ``SOLVER.STAGE2`` and ``MODEL.NAME`` are read.
        model: with what this stage does not train frozen.
        loader: augmented batches; its batch sampler plans each epoch.
        criterion: the weighted sum of the losses.
        optimizers: of the model and, if there is a center loss, of its centers.
        scheduler: of the first optimizer.
        run: device, precision, output folder.
        evaluate: tests the model; called every ``EVAL_PERIOD`` epochs except the last one, which the caller tests.
        validate: takes its place where images are held out, so that nothing is chosen by the test set: it is called
            after the last epoch too, and the model of the highest validation mAP is kept for :func:`load_best`.
        plain_loader: all training images once, without augmentation, for methods that start from their features.
    """
    stage = cfg.SOLVER.STAGE2
    run.note_trained(model)
    collect = partial(collect_image_features, model, plain_loader, run)
    with eval_mode(model, run):
        model.prepare(collect, stage.IMS_PER_BATCH)

    def batches(epoch: int, skip: int) -> DataLoader:
        if not skip:
            with eval_mode(model, run):
                model.begin_epoch(collect)
        model.train()
        loader.batch_sampler.set_epoch(epoch, skip)
        return loader

    def names(batch: Batch) -> list[str]:
        return [loader.dataset.records[index].path for index in batch[4].tolist()]

    def step(batch: Batch) -> StepResult:
        images, labels, camids, viewids = (t.to(run.device, non_blocking=True) for t in batch[:4])
        scores, features, guidance, labels = model(images, camids, viewids, labels)
        with torch.autocast(run.device.type, enabled=False):
            total, parts = criterion(scores, features, labels, guidance.logits, guidance.terms)
        decided = scores[0] if guidance.logits is None else guidance.logits
        parts["accuracy"] = (decided.detach().argmax(1) == labels).float().mean()
        return StepResult(total, parts, len(labels))

    def after_epoch(epoch: int) -> dict | None:
        if due(epoch, stage.CHECKPOINT_PERIOD, stage.MAX_EPOCHS):
            save_model(model, model_file(run.output_dir, cfg.MODEL.NAME, str(epoch)))
        if not due(epoch, stage.EVAL_PERIOD, stage.MAX_EPOCHS):
            return None
        if validate is not None:
            return _keep_best(cfg, model, run, epoch, validate())
        return None if epoch == stage.MAX_EPOCHS else _summary(epoch, evaluate())

    train_epochs(
        2,
        run=run,
        epochs=stage.MAX_EPOCHS,
        log_period=stage.LOG_PERIOD,
        clip=stage.CLIP_GRAD,
        batches=batches,
        names=names,
        step=step,
        parts={"model": model, "criterion": criterion},
        optimizers=optimizers,
        scheduler=scheduler,
        after_epoch=after_epoch,
    )


@contextmanager
def eval_mode(model: ImageReID, run: Run) -> Iterator[None]:
    """For what a method computes besides training."""
    model.eval()
    with torch.no_grad(), run.precision.autocast():
        yield


def _summary(epoch: int, found: Evaluation | None) -> dict[str, float] | None:
    """Log what an evaluation in between found; None in all processes but the first."""
    if found is None:
        return None
    summary = found.summary()
    LOGGER.info("evaluation after epoch %d: %s", epoch, "  ".join(f"{k} {v:.1f}" for k, v in summary.items()))
    return summary


def load_best(cfg: CfgNode, model: ImageReID, run: Run) -> None:
    """Put the weights of the highest validation mAP into ``model``.

    Raises:
        ReIDError: the checkpoint is gone or damaged.
    """
    path = _best_model(cfg, run)
    LOGGER.info("best epoch by validation: %d, %s", run.best["epoch"], path)
    on_main_process(lambda: load_model(model, path))
    share_from_main(model.state_dict().values())


def _best_model(cfg: CfgNode, run: Run) -> Path:
    return model_file(run.output_dir, cfg.MODEL.NAME, "best")


def _keep_best(cfg: CfgNode, model: ImageReID, run: Run, epoch: int, found: RankingMetrics) -> dict:
    """Save the model if no earlier epoch was better; of equals the first stays."""
    values = {"validation mAP": 100 * found.mAP, "validation Rank-1": 100 * found.rank(1)}
    if not run.best or found.mAP > run.best["mAP"]:
        save_model(model, _best_model(cfg, run))
        run.best = {"epoch": epoch, "mAP": found.mAP}
    shown = "  ".join(f"{name} {value:.1f}" for name, value in values.items())
    LOGGER.info("after epoch %d: %s; best: epoch %d", epoch, shown, run.best["epoch"])
    return values


def do_inference(
    cfg: CfgNode,
    model: ImageReID,
    loader: DataLoader,
    trials: Sequence[QueryGallerySplit[Record]],
    camera_rule: str,
    run: Run,
) -> Evaluation | None:
    """Test ``model`` on query and gallery of each trial; see :func:`processor.evaluation.evaluate_model`."""
    times = f", {len(trials)} random splits of {len(loader.dataset)} images" if len(trials) > 1 else ""
    LOGGER.info("evaluation: %d query and %d gallery images%s", len(trials[0].query), len(trials[0].gallery), times)
    return evaluate_model(cfg, model, loader, trials, camera_rule, run)


def do_validation(
    cfg: CfgNode, model: ImageReID, loader: DataLoader, trial: QueryGallerySplit[Record], run: Run
) -> RankingMetrics:
    """Rank the images that were held out of training; see :func:`processor.evaluation.validate_model`."""
    LOGGER.info("validation: %d held-out images against %d", len(trial.query), len(trial.gallery))
    return validate_model(cfg, model, loader, trial, run)

"""Stages on images, such as stage 2 of CLIP-ReID: the image encoder is fine-tuned (arXiv 2211.13977, section 3.3); and
the inference after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from model.base import Batch, Method, Progress, Stage
from processor.runs.run import Run
from processor.testing.evaluation import Evaluation, evaluate_model, validate_model
from processor.training.alignment import StageAlignment
from processor.training.train_set import PlainImages
from processor.training.train_step import Encoder
from processor.training.training_loop import Scheduler, StagePlan, due, train_epochs
from utils.compute.distributed import on_main_process, share_from_main
from utils.console.logger import LOGGER
from utils.files.checkpoint import load_model, model_file, save_model
from utils.metrics import RankingMetrics

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import QueryGallerySplit, Record, ReIDDataset


class DeviceBatches:
    """The batches of a loader on the device, as :class:`model.base.Batch`."""

    def __init__(self, loader: DataLoader, needs: frozenset[str], run: Run) -> None:
        self.loader, self.needs, self.device = loader, needs, run.device

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return (Batch.of(loaded, self.needs, self.device) for loaded in self.loader)


def do_train_stage2(
    cfg: CfgNode,
    method: Method,
    stage: Stage,
    loader: DataLoader,
    optimizers: Sequence[Optimizer],
    scheduler: Scheduler,
    run: Run,
    evaluate: Callable[[], Evaluation | None],
    validate: Callable[[], RankingMetrics] | None = None,
    plain_loader: DataLoader | None = None,
    finish: Callable[[], None] | None = None,
) -> None:
    """Train on augmented images by the losses of ``method``.

    Args:
        cfg: ``SOLVER.STAGE<n>``, ``SOLVER.SEED`` and ``MODEL.NAME`` are read.
        method: with what this stage does not train frozen.
        stage: its number.
        loader: augmented batches; its batch sampler plans each epoch.
        optimizers, scheduler: of this stage.
        run: device, precision, output folder.
        evaluate: tests the model; called every ``EVAL_PERIOD`` epochs except the last one, which the caller tests.
        validate: takes its place where images are held out, so that nothing is chosen by the test set: it is called
            after the last epoch too, and the model of the highest validation mAP is kept for :func:`load_best`.
        plain_loader: all training images once, without augmentation, for methods that read them between epochs.
        finish: changes the model when the last epoch has ended, before it is saved. It is called again when the run was
            interrupted in it, with the model as it was.
    """
    solver = cfg.SOLVER[f"STAGE{stage.number}"]
    run.note_trained(method)
    if run.position.stage > stage.number:
        return
    needs = method.needs(cfg, training=True)
    last_stage = stage.number == max(cfg.SOLVER.STAGES)
    ending = "" if last_stage else f"stage{stage.number}_"

    def batches(epoch: int, skip: int) -> DeviceBatches:
        loader.batch_sampler.set_epoch(epoch, skip)
        return DeviceBatches(loader, needs, run)

    images = PlainImages(method, plain_loader, run.precision, needs)
    alignment = StageAlignment(method, run, stage.number, images)

    def after_epoch(epoch: int) -> dict:
        if finish is not None and epoch == solver.MAX_EPOCHS:
            finish()
        if due(epoch, solver.CHECKPOINT_PERIOD, solver.MAX_EPOCHS):
            save_model(method.checkpoint(), model_file(run.output_dir, cfg.MODEL.NAME, f"{ending}{epoch}"))
        tested = due(epoch, solver.EVAL_PERIOD, solver.MAX_EPOCHS)
        found = alignment.after(epoch, solver.MAX_EPOCHS) if tested or epoch == 1 else {}
        if tested and validate is not None and last_stage:
            found |= _keep_best(cfg, method, run, epoch, validate())
        elif tested and epoch < solver.MAX_EPOCHS:
            found |= _summary(epoch, evaluate()) or {}
        return found

    plan = StagePlan(
        stage,
        solver,
        batches=batches,
        outputs=Encoder(method, run.precision, solver.MICRO_BATCHES, cfg.SOLVER.SEED),
        dataset=loader.dataset,
        images=images,
        optimizers=optimizers,
        scheduler=scheduler,
        frozen=_frozen(method, stage, solver),
        after_epoch=after_epoch,
        still=_fixed_statistics(method) if stage.number == 2 and solver.FREEZE_STATISTICS else frozenset(),
    )
    alignment.begin()
    train_epochs(plan, method, run)


def _frozen(method: Method, stage: Stage, solver: CfgNode) -> Callable[[Progress], tuple[str, ...]]:
    """What does not train in an epoch: as the method says, and in stage 2 by FREEZE and HEAD_EPOCHS."""
    if stage.number != 2:
        return method.frozen
    layers = method.layers_up_to(solver.FREEZE)

    def frozen(at: Progress) -> tuple[str, ...]:
        return (*method.frozen(at), *layers, *(("image_encoder.",) if at.epoch <= solver.HEAD_EPOCHS else ()))

    return frozen


def _fixed_statistics(method: Method) -> frozenset[str]:
    """Names of the image encoder's BatchNorms."""
    return frozenset(
        f"image_encoder.{name}" for name, m in method.image_encoder.named_modules() if isinstance(m, _BatchNorm)
    )


def _summary(epoch: int, found: Evaluation | None) -> dict[str, float] | None:
    """Log the result of an evaluation during training; None in all processes but the first."""
    if found is None:
        return None
    summary = found.summary()
    LOGGER.info("evaluation after epoch %d: %s", epoch, "  ".join(f"{k} {v:.1f}" for k, v in summary.items()))
    return summary


def load_best(cfg: CfgNode, model: Method, run: Run) -> None:
    """Put the weights of the highest validation mAP into ``model``.

    Raises:
        ReIDError: the checkpoint is missing or damaged.
    """
    path = _best_model(cfg, run)
    LOGGER.info("best epoch by validation: %d, %s", run.best["epoch"], path)
    on_main_process(lambda: load_model(model, path, model.resume_only))
    share_from_main(model.state_dict().values())


def _best_model(cfg: CfgNode, run: Run) -> Path:
    return model_file(run.output_dir, cfg.MODEL.NAME, "best")


def _keep_best(cfg: CfgNode, model: Method, run: Run, epoch: int, found: RankingMetrics) -> dict:
    """Save the model if no earlier epoch was better; of equals the first stays."""
    values = {"validation mAP": 100 * found.mAP, "validation Rank-1": 100 * found.rank(1)}
    if not run.best or found.mAP > run.best["mAP"]:
        save_model(model.checkpoint(), _best_model(cfg, run))
        run.best = {"epoch": epoch, "mAP": found.mAP}
    shown = "  ".join(f"{name} {value:.1f}" for name, value in values.items())
    LOGGER.info("after epoch %d: %s; best: epoch %d", epoch, shown, run.best["epoch"])
    return values


def do_inference(
    cfg: CfgNode,
    model: Method,
    loader: DataLoader,
    dataset: ReIDDataset,
    run: Run,
) -> Evaluation | None:
    """Test ``model`` on query and gallery of each trial; see :func:`processor.testing.evaluation.evaluate_model`."""
    trials = dataset.trials
    times = f", {len(trials)} random splits of {len(loader.dataset)} images" if len(trials) > 1 else ""
    LOGGER.info("evaluation: %d query and %d gallery images%s", len(trials[0].query), len(trials[0].gallery), times)
    return evaluate_model(cfg, model, loader, dataset, run)


def do_validation(
    cfg: CfgNode, model: Method, loader: DataLoader, trial: QueryGallerySplit[Record], run: Run
) -> RankingMetrics:
    """Rank the images that were held out of training; see :func:`processor.testing.evaluation.validate_model`."""
    LOGGER.info("validation: %d held-out images against %d", len(trial.query), len(trial.gallery))
    return validate_model(cfg, model, loader, trial, run)

"""Stage 2 of CLIP-ReID: fine-tune the image encoder (arXiv 2211.13977, section 3.3), and the inference after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from loss.make_loss import Stage2Loss
from processor.evaluation import Evaluation, evaluate_model
from processor.run import Run
from processor.training_loop import Scheduler, due, train_epochs
from processor.update import Batch, StepResult
from utils.checkpoint import save_model
from utils.logger import LOGGER

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from model.baseline import ImageReID
    from model.make_model_clipreid import CLIPReID


def do_train_stage2(
    cfg: CfgNode,
    model: ImageReID,
    loader: DataLoader,
    criterion: Stage2Loss,
    optimizers: Sequence[Optimizer],
    scheduler: Scheduler,
    run: Run,
    evaluate: Callable[[], Evaluation],
) -> None:
    """Train the image encoder with ID, triplet and image-to-text losses.

    The text features of all identities are computed once: neither prompts nor text encoder change any more. The
    image-to-text logits are inner products with the projected feature, neither normalised nor scaled. A model without
    prompts (the baseline) trains without that term.

    Args:
        cfg: ``SOLVER.STAGE2`` and ``MODEL.NAME`` are read.
        model: its text side frozen.
        loader: augmented batches; its batch sampler plans each epoch.
        criterion: the weighted sum of the losses.
        optimizers: of the model and, if there is a center loss, of its centers.
        scheduler: of the first optimizer.
        run: device, precision, output folder.
        evaluate: tests the model; called every ``EVAL_PERIOD`` epochs except the last one, which the caller tests.
    """
    stage = cfg.SOLVER.STAGE2
    text = collect_text_features(model, stage.IMS_PER_BATCH, run) if hasattr(model, "prompt_learner") else None

    def batches(epoch: int, skip: int) -> DataLoader:
        model.train()
        loader.batch_sampler.set_epoch(epoch, skip)
        return loader

    def names(batch: Batch) -> list[str]:
        return [loader.dataset.records[index].path for index in batch[4].tolist()]

    def step(batch: Batch) -> StepResult:
        images, labels, camids, viewids = (t.to(run.device, non_blocking=True) for t in batch[:4])
        scores, features = model(images, camids, viewids)
        with torch.autocast(run.device.type, enabled=False):
            logits = None if text is None else features.projected @ text.T
            total, parts = criterion(scores, features, labels, logits)
        decided = scores[0] if logits is None else logits
        parts["accuracy"] = (decided.detach().argmax(1) == labels).float().mean()
        return StepResult(total, parts, len(labels))

    def after_epoch(epoch: int) -> dict | None:
        if due(epoch, stage.CHECKPOINT_PERIOD, stage.MAX_EPOCHS):
            save_model(model, run.output_dir / f"{cfg.MODEL.NAME}_{epoch}.pth")
        if epoch % stage.EVAL_PERIOD or epoch == stage.MAX_EPOCHS:
            return None
        summary = evaluate().summary()
        LOGGER.info("evaluation after epoch %d: %s", epoch, "  ".join(f"{k} {v:.1f}" for k, v in summary.items()))
        return summary

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


@torch.no_grad()
def collect_text_features(model: CLIPReID, chunk: int, run: Run) -> Tensor:
    """Text features of all identities [C, E] in float32, ``chunk`` identities at a time."""
    model.eval()
    labels = torch.arange(model.num_classes, device=run.device)
    with run.precision.autocast():
        return torch.cat([model.encode_text(part).float() for part in labels.split(chunk)])


def do_inference(
    cfg: CfgNode, model: ImageReID, loader: DataLoader, num_query: int, camera_rule: str, run: Run
) -> Evaluation:
    """Test ``model`` on the query and gallery images of ``loader``; see :func:`processor.evaluation.evaluate_model`."""
    LOGGER.info("evaluation: %d query and %d gallery images", num_query, len(loader.dataset) - num_query)
    return evaluate_model(cfg, model, loader, num_query, camera_rule, run)

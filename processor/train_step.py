"""One iteration: losses, their gradients, the optimizers; and the end of a run whose loss is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from utils.checkpoint import write_text
from utils.device import Precision
from utils.distributed import any_process, gather_objects
from utils.errors import ReIDError
from utils.logger import LOGGER

Batch = TypeVar("Batch")


class StepResult(NamedTuple):
    """One iteration: the total to differentiate, its named terms and other values to log, the number of images."""

    loss: Tensor
    parts: dict[str, Tensor]
    count: int


@dataclass
class Update(Generic[Batch]):
    """From a batch to changed parameters.

    Attributes:
        step: from a batch to its losses; runs under autocast.
        optimizers: all are stepped on the total; the first one's gradients are clipped.
        scaler: of the loss.
        precision: of :attr:`step`.
        clip: largest norm of the first optimizer's gradients together; 0 for any.
        model: whose buffers a forward pass changes.
        names: from a batch to the files of its images.
        folder: of the list of files in a batch whose loss is not finite.
    """

    step: Callable[[Batch], StepResult]
    optimizers: Sequence[Optimizer]
    scaler: GradScaler
    precision: Precision
    clip: float
    model: nn.Module
    names: Callable[[Batch], Sequence[str]]
    folder: Path

    def __call__(self, batch: Batch, place: str) -> StepResult:
        """Do it, at ``place`` (for messages).

        Raises:
            ReIDError: the loss is not finite, in float16 not in float32 either.
        """
        result = self._losses(batch, place)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(result.loss).backward()
        if self.clip:
            first = self.optimizers[0]
            self.scaler.unscale_(first)
            clip_grad_norm_([p for group in first.param_groups for p in group["params"]], self.clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return result

    def _losses(self, batch: Batch, place: str) -> StepResult:
        half = self.precision.dtype is torch.float16
        before = [buffer.clone() for buffer in self.model.buffers()] if half else []
        with self.precision.autocast():
            result = self.step(batch)
        if half and _anywhere_not_finite(result.loss):
            LOGGER.warning("%s: the loss is not finite in float16; this iteration is done again in float32", place)
            with torch.no_grad():
                for buffer, value in zip(self.model.buffers(), before, strict=True):
                    buffer.copy_(value)  # running means of infinite features would stay infinite
            result = self.step(batch)
        if _anywhere_not_finite(result.loss):
            raise self._not_finite(result, batch, place)
        return result

    def _not_finite(self, result: StepResult, batch: Batch, place: str) -> ReIDError:
        terms = ", ".join(f"{name} = {float(value):.4g}" for name, value in result.parts.items())
        shares = gather_objects(list(self.names(batch)))
        names = list(dict.fromkeys(name for share in shares for name in share))  # in stage 1 each process has all
        path = self.folder / "not_finite.txt"
        write_text(path, "".join(f"{name}\n" for name in names))
        return ReIDError(
            f"{place}: the loss is not finite ({terms}) on {len(names)} images, {', '.join(names[:3])} and others, all "
            f"listed in {path}. Look at them, lower the learning rate, set CLIP_GRAD, or set SOLVER.PRECISION to fp32, "
            "and start anew with RESUME never or another OUTPUT_DIR; checkpoints written so far are kept."
        )


def _anywhere_not_finite(loss: Tensor) -> bool:
    """All processes do the same next, even if rounding had one of them alone overflow."""
    return any_process(not torch.isfinite(loss))

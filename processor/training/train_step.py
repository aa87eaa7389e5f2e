"""One iteration: outputs, losses, gradients, optimizers; and the end of a run whose loss is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from model.backbones.base import Outputs
from model.base import Batch, Method, Progress, Terms
from model.layers.batch_norm import in_front_of_seam, without_statistics
from utils.compute.device import Precision
from utils.compute.distributed import any_process, average_gradients, gather_batch, gather_objects, rank
from utils.compute.precision import computing_in, widened
from utils.compute.seed import seeded
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.files.checkpoint import write_text


class StepResult(NamedTuple):
    """One iteration: the total to differentiate, its terms and other scalars to log, the number of images."""

    loss: Tensor
    shown: Terms
    count: int


@dataclass
class Encoder:
    """In front of the seam: a batch of this process -> outputs and labels of the whole batch, with gradients.

    Attributes:
        method: whose ``forward`` is called.
        precision: of ``forward``.
        micro_batches: how many a batch is encoded in. The activations of none are kept: the backward pass encodes
            one part after the other again and accumulates the gradients (gradient caching). Behind the seam all images
            of the batch are compared, so the gradient is that of the whole batch where ``forward`` has no BatchNorm.
        seed: of the draws in ``forward``, with stage, epoch, iteration, process and micro-batch. A recomputation draws
            the same.
    """

    method: Method
    precision: Precision
    micro_batches: int = 1
    seed: int = 0

    def __call__(self, batch: Batch, at: Progress) -> tuple[Outputs, Tensor]:
        micro_batches = batch.split(self.micro_batches)
        if len(micro_batches) == 1:
            outputs = self._rows(batch, at, 0)
        else:
            found = [
                checkpoint(
                    self._rows, rows, at, i, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts
                )
                for i, rows in enumerate(micro_batches)
            ]
            outputs = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        labels, *rows = gather_batch(batch.labels, *(widened(rows) for rows in outputs.values()))
        return dict(zip(outputs, rows, strict=True)), labels

    def _rows(self, batch: Batch, at: Progress, part: int) -> Outputs:
        with seeded(self.precision.device, self.seed, *at, rank(), part), self.precision.autocast(), in_front_of_seam():
            return self.method(batch, at)

    def _contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), without_statistics(self.method)


@dataclass
class TrainStep:
    """From a batch to changed parameters.

    Attributes:
        method: its ``losses`` are computed in float32.
        outputs: from a batch to outputs and labels of the whole batch: an :class:`Encoder`, or cached outputs.
        optimizers: all are stepped on the total; the gradients of the first are clipped.
        scaler: of the loss.
        precision: of :attr:`outputs`.
        clip: largest norm of the first optimizer's gradients together; 0 for any.
        names: from a batch to the files of its images.
        folder: of the list of files in a batch whose loss is not finite.
    """

    method: Method
    outputs: Callable[[Batch, Progress], tuple[Outputs, Tensor]]
    optimizers: Sequence[Optimizer]
    scaler: GradScaler
    precision: Precision
    clip: float
    names: Callable[[Batch], Sequence[str]]
    folder: Path
    _full: Precision = field(init=False)

    def __post_init__(self) -> None:
        self._full = Precision(self.precision.device, torch.float32)

    def __call__(self, batch: Batch, at: Progress) -> StepResult:
        """Do it once.

        Raises:
            ReIDError: the loss is not finite, in float16 not in float32 either.
        """
        result = self._result(batch, at)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(result.loss).backward()
        average_gradients(p for optimizer in self.optimizers for p in parameters_of(optimizer))
        if self.clip:
            self.scaler.unscale_(self.optimizers[0])
            clip_grad_norm_(parameters_of(self.optimizers[0]), self.clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return result

    def _result(self, batch: Batch, at: Progress) -> StepResult:
        half = self.precision.dtype is torch.float16
        before = [(buffer, buffer.clone()) for buffer in self._changing()] if half else []
        result = self._losses(batch, at)
        if half and _anywhere_not_finite(result.loss):
            LOGGER.warning("%s: the loss is not finite in float16; this iteration is repeated in float32", place(at))
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)  # running means of infinite features would stay infinite
            with self._in_full_precision():
                result = self._losses(batch, at)
        if _anywhere_not_finite(result.loss):
            raise self._not_finite(result, batch, at)
        return result

    def _losses(self, batch: Batch, at: Progress) -> StepResult:
        outputs, labels = self.outputs(batch, at)
        device = self.precision.device.type
        with computing_in(self.precision.autocast), torch.autocast(device, enabled=False):
            terms, shown = self.method.losses(outputs, labels, at)
        if not terms:
            raise ReIDError(f"{place(at)}: there is no loss; give at least one loss weight a value above 0.")
        total = torch.stack([term.to(torch.promote_types(term.dtype, torch.float32)) for term in terms.values()]).sum()
        return StepResult(total, {name: t.detach() for name, t in (terms | shown).items()}, len(labels))

    def _changing(self) -> Iterator[Tensor]:
        """Buffers that an iteration may change; those kept to resume alone are filled between epochs."""
        skipped = self.method.resume_only or ("\0",)
        return (buffer for name, buffer in self.method.named_buffers() if not name.startswith(skipped))

    @contextmanager
    def _in_full_precision(self) -> Iterator[None]:
        """Outputs and losses in float32."""
        encoder, usual = self.outputs, self.precision
        self.precision = self._full
        if isinstance(encoder, Encoder):
            encoder.precision = self._full
        try:
            yield
        finally:
            self.precision = usual
            if isinstance(encoder, Encoder):
                encoder.precision = usual

    def _not_finite(self, result: StepResult, batch: Batch, at: Progress) -> ReIDError:
        terms = ", ".join(f"{name} = {float(value):.4g}" for name, value in result.shown.items())
        shares = gather_objects(list(self.names(batch)))
        names = list(dict.fromkeys(name for share in shares for name in share))  # in stage 1 each process has all
        path = self.folder / "not_finite.txt"
        write_text(path, "".join(f"{name}\n" for name in names))
        return ReIDError(
            f"{place(at)}: the loss is not finite ({terms}) on {len(names)} images, {', '.join(names[:3])} and others, "
            f"all listed in {path}. Check them, lower the learning rate, set CLIP_GRAD, or set SOLVER.PRECISION to "
            "fp32, and start over with RESUME never or another OUTPUT_DIR; checkpoints written so far are kept."
        )


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def place(at: Progress) -> str:
    """Where a training is, for messages."""
    return f"stage {at.stage} epoch {at.epoch}, iteration {at.iteration}"


def _anywhere_not_finite(loss: Tensor) -> bool:
    """All processes take the same branch, even if rounding makes only one of them overflow."""
    return any_process(not torch.isfinite(loss))

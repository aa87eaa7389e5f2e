"""Putting tensors of a file into a model: tolerant where data sets and sizes differ, strict everywhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import ReIDError

if TYPE_CHECKING:
    from model.baseline import ImageReID

IDENTITY_BOUND = ("classifier.", "classifier_proj.", "prompt_learner.", "cv_embed")
"""Parts that belong to one data set's identities, cameras and views, or to one sentence."""

POSITIONS = ("image_encoder.positional_embedding", "image_encoder.attnpool.positional_embedding")


@dataclass
class LoadReport:
    """What became of each tensor. ``resized`` and ``skipped`` say from which shape to which, or why."""

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def table(self) -> str:
        """A few lines for the log."""
        lines = [f"loaded   {len(self.loaded)} tensors"]
        lines += [f"resized  {name}: {how}" for name, how in self.resized.items()]
        lines += [f"skipped  {name}: {why}" for name, why in self.skipped.items()]
        lines += [f"missing  {name}: keeps its start value" for name in self.missing]
        return "\n".join(lines)


def resize_positions(table: Tensor, grid: tuple[int, int], source: tuple[int, int] | None = None) -> Tensor:
    """Position embeddings [1 + h w, D] for another ``grid`` of patches: bilinear, half-pixel centres.

    Row 0 belongs to the class token (or the mean) and is copied. Without ``source`` the old grid is taken to be
    square, or as near to twice as high as wide as the count allows (the person images of CLIP-ReID).
    """
    source = source or _guess_grid(len(table) - 1)
    if source == grid:
        return table
    old = table[1:].float().reshape(1, *source, -1).permute(0, 3, 1, 2)
    new = F.interpolate(old, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:1].float(), new.permute(0, 2, 3, 1).flatten(1, 2)[0]])


def _guess_grid(count: int) -> tuple[int, int]:
    side = math.isqrt(count)
    if side * side == count:
        return side, side
    columns = [c for c in range(1, count + 1) if count % c == 0]
    best = min(columns, key=lambda c: abs(math.log(count / c / c / 2)))
    return count // best, best


def load_clip_weights(model: ImageReID, weights: Mapping[str, Tensor]) -> LoadReport:
    """Copy CLIP's tensors (OpenAI's names) into both encoders of ``model``.

    Raises:
        ReIDError: a tensor of the encoders is missing or has another shape.
    """
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("visual."):
            renamed[f"image_encoder.{name.removeprefix('visual.')}"] = tensor
        elif name not in ("token_embedding.weight", "logit_scale"):
            renamed[f"text_encoder.{name}"] = tensor
    encoders = {name for name in model.state_dict() if name.startswith(("image_encoder.", "text_encoder."))}
    report = _copy(model, {name: t for name, t in renamed.items() if name in encoders})
    lost = [name for name in encoders if name in report.missing and not name.endswith("num_batches_tracked")]
    if lost:
        raise ReIDError(f"The CLIP weights lack {len(lost)} tensors of the model, first {sorted(lost)[0]}.")
    return report


def load_reid_weights(model: ImageReID, state: Mapping[str, Tensor], *, only: str = "") -> LoadReport:
    """Copy a CLIP-ReID checkpoint, published or ours, into ``model``.

    Args:
        model: the model; its own data set and image size decide the shapes.
        state: the checkpoint.
        only: names must start with this, e.g. ``prompt_learner.``; the parts named must then fit exactly.

    Raises:
        ReIDError: a tensor is unknown, or has another shape and is neither bound to identities nor to positions.
    """
    return _copy(model, {name: tensor for name, tensor in state.items() if name.startswith(only)}, strict=bool(only))


def _copy(model: ImageReID, state: Mapping[str, Tensor], strict: bool = False) -> LoadReport:
    own = model.state_dict()
    report = LoadReport(missing=[name for name in own if name not in state])
    for name, tensor in state.items():
        target = own.get(name)
        if target is None:
            if name.startswith((*IDENTITY_BOUND, "text_encoder.")):
                report.skipped[name] = "this model has no such part"
                continue
            raise ReIDError(f"The checkpoint's tensor {name} {list(tensor.shape)} has no place in {_describe(model)}.")
        if tensor.shape != target.shape and name in POSITIONS and tensor.shape[1:] == target.shape[1:]:
            report.resized[name] = f"{list(tensor.shape)} -> {list(target.shape)}"
            tensor = resize_positions(tensor, model.image_encoder.grid)
        elif tensor.shape != target.shape and name.startswith(IDENTITY_BOUND) and not strict:
            report.skipped[name] = f"{list(tensor.shape)} in the file, {list(target.shape)} for this data set"
            continue
        if tensor.shape != target.shape:
            raise ReIDError(
                f"The checkpoint's tensor {name} has shape {list(tensor.shape)}; {_describe(model)} needs "
                f"{list(target.shape)}. Check MODEL.NAME, MODEL.STRIDE_SIZE, INPUT.SIZE_TRAIN and the data set."
            )
        with torch.no_grad():
            target.copy_(tensor)
        report.loaded.append(name)
    return report


def _describe(model: ImageReID) -> str:
    return f"this {type(model).__name__} ({model.num_classes} identities, patch grid {model.image_encoder.grid})"

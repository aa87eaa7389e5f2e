"""Putting tensors of a file into a model: tolerant where data sets and sizes differ, strict everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.clip.positions import guess_grid, resize_positions
from utils.errors import ReIDError

if TYPE_CHECKING:
    from model.methods.baseline import ImageReID

IDENTITY_BOUND = ("classifier.", "classifier_proj.", "prompt_learner.cls_ctx", "cv_embed", "memory")
"""Parts that belong to one data set's identities, cameras and views."""

SENTENCE = ("prompt_learner.token_prefix", "prompt_learner.token_suffix")
"""Embeddings of the fixed words in the prompts' sentence."""

TEMPLATE = ("template.token_prefix", "template.token_suffix")
"""The same of ``handid``'s sentence."""

INVERSION = ("inversion.", "template.")
"""What ``handid`` has besides: CLIP's weights know nothing of it."""

CONTEXT = ("prompt_learner.ctx", "prompt_learner.embedded", "prompt_learner.slots", "prompt_learner.ends")
"""CoOp's learned vectors and the names of its classes."""

POSITIONS = ("image_encoder.positional_embedding", "image_encoder.attnpool.positional_embedding")

NOT_IN_EVERY_MODEL = {
    "text_encoder": "this model reads no text",
    "prompt_learner": "this model has no prompts",
    "memory": "this model compares images with no memory",
    "inversion": "this model makes no words of images",
    "template": "this model has no sentence",
    "cv_embed": "side information is off (MODEL.SIE_CAMERA, MODEL.SIE_VIEW) or the network takes none (ResNets)",
}
"""Parts that a model may do without, and why a file's are then left alone."""

NOT_KEPT = {
    "token_embedding.weight": "the prompts keep the embeddings of their own words",
    "logit_scale": "CLIP-ReID scales no logits",
}
"""Tensors of CLIP that CLIP-ReID has no use for."""


@dataclass
class LoadReport:
    """What became of each tensor. ``resized`` and ``skipped`` say from which shape to which, or why."""

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """A few lines for the log; tensors of one part that share a fate share a line."""
        fates = {
            "loaded": dict.fromkeys(self.loaded, ""),
            "resized": self.resized,
            "skipped": self.skipped,
            "missing": self.missing,
        }
        return "\n".join(f"{fate:<8} {line}" for fate, tensors in fates.items() for line in _lines(tensors))


def _lines(tensors: Mapping[str, str]) -> list[str]:
    """One line for each part and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in tensors.items():
        groups.setdefault((name.partition(".")[0], reason), []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{part}.* ({len(names)} tensors)") + (reason and f": {reason}")
        for (part, reason), names in groups.items()
    ]


def load_clip_weights(model: ImageReID, weights: Mapping[str, Tensor]) -> LoadReport:
    """Copy CLIP's tensors (OpenAI's names) into both encoders of ``model``.

    Raises:
        ReIDError: a tensor of the encoders is missing, has another shape or no place.
    """
    renamed = {}
    for name, tensor in weights.items():
        part = "image_encoder" if name.startswith("visual.") else "text_encoder"
        renamed[name if name in NOT_KEPT else f"{part}.{name.removeprefix('visual.')}"] = tensor
    start = IDENTITY_BOUND + SENTENCE + CONTEXT + INVERSION + ("bottleneck.", "bottleneck_proj.")
    return _load(model, renamed, start=start)


def load_backbone_weights(model: ImageReID, weights: Mapping[str, Tensor]) -> LoadReport:
    """Copy tensors under timm's names into the backbone of ``model``; the classifier of its pre-training stays out.

    Raises:
        ReIDError: a tensor of the backbone is missing, has another shape or no place.
    """
    renamed, skipped = model.image_encoder.rename(weights)
    state = {f"image_encoder.{name}": tensor for name, tensor in renamed.items()}
    report = _load(model, state, start=("classifier.", "bottleneck."))
    report.skipped |= skipped
    return report


def load_reid_weights(model: ImageReID, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy a CLIP-ReID checkpoint, published or ours, into ``model``: all that fits, for a test.

    Raises:
        ReIDError: a tensor is unknown, missing or has another shape and is neither bound to identities nor to
            positions.
    """
    return _load(model, state, start=IDENTITY_BOUND + SENTENCE)


def load_start(model: ImageReID, state: Mapping[str, Tensor], sentence: str) -> LoadReport:
    """Copy a CLIP-ReID checkpoint into ``model`` as the start of a training on another data set.

    What belongs to the other data set's identities and cameras is left alone even where its shape would fit. The
    fixed words of the prompts can only be the file's, since it has no token embedding table.

    Args:
        model: for the new data set.
        state: the checkpoint.
        sentence: the new data set's, for messages.

    Raises:
        ReIDError: as :func:`load_reid_weights`; or the new sentence has other numbers of tokens than the file's.
    """
    reason = "bound to the identities or cameras of the other data set"
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(IDENTITY_BOUND)}
    if hasattr(model, "prompt_learner"):
        _check_sentence(state, model.state_dict(), sentence, SENTENCE)
    if hasattr(model, "template"):
        _check_sentence(state, model.state_dict(), sentence, TEMPLATE)
    report = _load(model, kept, start=IDENTITY_BOUND)
    report.skipped |= {name: reason for name in state if name not in kept}
    return report


def load_prompts_only(model: ImageReID, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy the prompts that stage 1 learned; every tensor of them must fit.

    Raises:
        ReIDError: there are none, or they belong to another number of identities or another sentence.
    """
    prompts = {name: tensor for name, tensor in state.items() if name.startswith("prompt_learner.")}
    own = model.state_dict()
    learned, wanted = prompts.get("prompt_learner.cls_ctx"), own["prompt_learner.cls_ctx"]
    if learned is None or learned.shape != wanted.shape:
        found = "none" if learned is None else f"prompt_learner.cls_ctx {list(learned.shape)}"
        raise ReIDError(
            f"the prompts of {len(wanted)} identities, prompt_learner.cls_ctx {list(wanted.shape)}, were expected; "
            f"found {found}. Prompts can't be moved to another data set: run stage 1 on this one."
        )
    for name in SENTENCE:
        fits = name in prompts and prompts[name].shape == own[name].shape
        if not fits or not torch.allclose(prompts[name], own[name].float().cpu(), atol=1e-3):
            raise ReIDError(
                f"{name} differs: the prompts were learned inside another sentence or with other CLIP weights. Set "
                "MODEL.PROMPT and MODEL.PRETRAIN_PATH as in their stage 1."
            )
    report = _load(model, prompts, start=tuple(name for name in own if not name.startswith("prompt_learner.")))
    report.missing.clear()  # everything else has been loaded before
    return report


def _check_sentence(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], sentence: str, names: tuple[str, str]
) -> None:
    """Compare what a file tells of its sentence: tokens before the X, number of X, tokens after them.

    Args:
        state, own: tensors of the file and of the model.
        sentence: the model's, for messages.
        names: of the embeddings before and after the X.
    """
    missing = [name for name in names if name not in state]
    if missing:
        raise ReIDError(
            f"there is no {missing[0]}: this checkpoint holds no sentence of this method to start from. Train with "
            "MODEL.METHOD baseline, or start from CLIP's weights."
        )
    found, wanted = _counts(state, names), _counts(own, names)
    if found != wanted:
        said = "{} tokens before the learned ones, {} learned, {} after (start and end of the text included)"
        raise ReIDError(
            f"the checkpoint's sentence has {said.format(*found)}; {sentence!r} has {said.format(*wanted)}. The file "
            "has no token embeddings for another sentence: set MODEL.PROMPT to the checkpoint's own, or start from "
            "CLIP's weights."
        )


def _counts(tensors: Mapping[str, Tensor], names: tuple[str, str]) -> tuple[int, int, int]:
    """Tokens before, among and after the X. Padding, many copies of one embedding, does not count."""
    prefix, suffix = (tensors[name] for name in names)
    context = len(tensors["text_encoder.positional_embedding"])
    distinct = (suffix[0] != suffix[0, -1]).any(dim=1).nonzero()
    after = int(distinct[-1]) + 1 if len(distinct) else 0
    return prefix.shape[1], context - prefix.shape[1] - suffix.shape[1], after


def _load(model: ImageReID, state: Mapping[str, Tensor], start: tuple[str, ...]) -> LoadReport:
    """Copy ``state`` into ``model``; parts whose names begin with ``start`` may be absent and keep their start values.

    Nothing is copied unless everything can be.
    """
    own = model.state_dict()
    report, ready = LoadReport(), {}
    for name, tensor in state.items():
        target = own.get(name)
        if target is None:
            report.skipped[name] = _why_no_place(model, own, name, tensor)
        elif tensor.shape == target.shape:
            ready[name] = tensor
            report.loaded.append(name)
        elif name in POSITIONS and tensor.dim() == 2 and len(tensor) > 1 and tensor.shape[1] == target.shape[1]:
            grid, old = model.image_encoder.grid, guess_grid(len(tensor) - 1)
            ready[name] = resize_positions(tensor, grid, old)
            patches = f"{old[0]} x {old[1]} patches -> {grid[0]} x {grid[1]}"
            report.resized[name] = f"{list(tensor.shape)} -> {list(target.shape)}, {patches}"
        elif name.startswith(IDENTITY_BOUND):
            report.skipped[name] = f"{list(tensor.shape)} in the file, {list(target.shape)} for this data set"
        else:
            raise ReIDError(
                f"the tensor {name} has the shape {list(tensor.shape)}; {_describe(model)} needs "
                f"{list(target.shape)}. Check MODEL.NAME and whether this is the file you mean."
            )
    absent = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    lost = [name for name in absent if not name.startswith(start)]
    if lost:
        shape = list(own[lost[0]].shape)
        raise ReIDError(f"{len(lost)} tensors that {_describe(model)} needs are missing, first {lost[0]} {shape}.")
    report.missing = dict.fromkeys(absent, "keeps its start value")
    with torch.no_grad():
        for name, tensor in ready.items():
            own[name].copy_(tensor)
    return report


def _why_no_place(model: ImageReID, own: Mapping[str, Tensor], name: str, tensor: Tensor) -> str:
    if name in NOT_KEPT:
        return NOT_KEPT[name]
    part = name.partition(".")[0]
    if part in NOT_IN_EVERY_MODEL and not any(other.partition(".")[0] == part for other in own):
        return NOT_IN_EVERY_MODEL[part]
    raise ReIDError(f"the tensor {name} {list(tensor.shape)} has no place in {_describe(model)}.")


def _describe(model: ImageReID) -> str:
    return f"this {type(model).__name__} ({model.num_classes} identities, patch grid {model.image_encoder.grid})"

"""Copying tensors of a file into a model: tolerant where data sets and sizes differ, strict everywhere else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.backbones.base import LoadReport
from model.base import Method
from model.clip.positions import KnownGrid, resized_table
from utils.errors import ReIDError


def copy_all(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Copy ``tensors`` into ``module``; nothing is copied unless everything fits. Counters of batches may be absent.

    Args:
        module: its state dict names the tensors.
        tensors: by these names.
        prefix: of the names in the file, for messages.

    Raises:
        ReIDError: a tensor is missing, has another shape or no place.
    """
    own = module.state_dict()
    for name, tensor in tensors.items():
        if name not in own:
            raise ReIDError(f"the tensor {prefix}{name} {list(tensor.shape)} has no place in {type(module).__name__}.")
        if own[name].shape != tensor.shape:
            raise _other_shape(f"{prefix}{name}", tensor, own[name], type(module).__name__)
    lost = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    if lost:
        raise _lost([f"{prefix}{name}" for name in lost], own[lost[0]], type(module).__name__)
    _copy(own, tensors)


def copy_pretrained(module: nn.Module, tensors: Mapping[str, Tensor], classifier: str | tuple[str, ...]) -> LoadReport:
    """Copy all but the tensors whose names begin with ``classifier``, as :func:`copy_all` does."""
    skipped = {name: "the classifier of its pre-training" for name in tensors if name.startswith(classifier)}
    ready = {name: tensor for name, tensor in tensors.items() if name not in skipped}
    copy_all(module, ready)
    return LoadReport(loaded=list(ready), skipped=skipped)


def load_checkpoint(method: Method, state: Mapping[str, Tensor], known: KnownGrid | None = None) -> LoadReport:
    """Copy a checkpoint of re-identification, published or ours, into ``method`` for a test.

    Tensors that a test does not use are left out; those of other identities or cameras too.

    Args:
        method: built for the test.
        state: the checkpoint.
        known: what is known of the grid of its position embeddings.

    Raises:
        ReIDError: a tensor is unknown, missing or has another shape, or the grid is unknown.
    """
    return _load(method, method.rename(dict(state)), known or KnownGrid())


def load_start(method: Method, state: Mapping[str, Tensor], known: KnownGrid | None = None) -> LoadReport:
    """Copy a checkpoint of re-identification into ``method`` as the start of a training on another data set.

    What belongs to the other data set's identities and cameras is left out even where its shape would fit. Arguments as
    for :func:`load_checkpoint`.

    Raises:
        ReIDError: as :func:`load_checkpoint`, or :meth:`Method.check_start` refuses the file.
    """
    state = method.rename(dict(state))
    method.check_start(state)
    bound = {name for name in state if name.startswith(method.identity_bound)}
    kept = {name: tensor for name, tensor in state.items() if name not in bound}
    report = _load(method, kept, known or KnownGrid())
    report.skipped |= dict.fromkeys(sorted(bound), "bound to the identities or cameras of the other data set")
    return report


def load_part(method: Method, state: Mapping[str, Tensor], prefix: str) -> LoadReport:
    """Copy the tensors whose names begin with ``prefix``, which must all be there.

    Raises:
        ReIDError: one is missing, has another shape or no place.
    """
    part = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    copy_all(method.get_submodule(prefix.rstrip(".")), part, prefix)
    return LoadReport([f"{prefix}{name}" for name in part])


def _load(method: Method, state: Mapping[str, Tensor], known: KnownGrid) -> LoadReport:
    """Copy ``state`` into ``method``. Nothing is copied unless everything can be."""
    own = method.state_dict()
    optional = method.identity_bound + method.resume_only
    report, ready = LoadReport(), {}
    for name, tensor in state.items():
        target = own.get(name)
        if target is None:
            report.skipped[name] = _why_no_place(method, name, tensor)
        elif name == f"image_encoder.{method.image_encoder.positions}" and _is_table(tensor, target):
            grid = method.image_encoder.grid
            ready[name], resized = resized_table(tensor, grid, known.source(tensor.shape[-2] - 1, grid))
            report.resized |= {name: resized} if resized else {}
            report.loaded += [] if resized else [name]
        elif tensor.shape == target.shape:
            ready[name] = tensor
            report.loaded.append(name)
        elif name.startswith(optional):
            report.skipped[name] = f"{list(tensor.shape)} in the file, {list(target.shape)} for this data set"
        else:
            raise _other_shape(name, tensor, target, _describe(method))
    absent = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    lost = [name for name in absent if not name.startswith(optional)]
    if lost:
        raise _lost(lost, own[lost[0]], _describe(method))
    report.missing = dict.fromkeys(absent, "keeps its start value")
    _copy(own, ready)
    return report


def _is_table(tensor: Tensor, target: Tensor) -> bool:
    same = tensor.dim() == target.dim() > 1 and tensor.shape[:-2] == target.shape[:-2]
    return same and tensor.shape[-2] > 1 and tensor.shape[-1] == target.shape[-1]


@torch.no_grad()
def _copy(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _why_no_place(method: Method, name: str, tensor: Tensor) -> str:
    if name.startswith(method.train_only + method.resume_only):
        return "not used here"
    if name.startswith(method.identity_bound):
        return "switched off here, or not used"
    raise ReIDError(f"the tensor {name} {list(tensor.shape)} has no place in {_describe(method)}.")


def _other_shape(name: str, tensor: Tensor, target: Tensor, owner: str) -> ReIDError:
    return ReIDError(
        f"the tensor {name} has the shape {list(tensor.shape)}; {owner} needs {list(target.shape)}. Check MODEL.NAME "
        "and whether this is the file you mean."
    )


def _lost(names: list[str], first: Tensor, owner: str) -> ReIDError:
    return ReIDError(f"{len(names)} tensors that {owner} needs are missing, first {names[0]} {list(first.shape)}.")


def _describe(method: Method) -> str:
    return f"this {type(method).__name__} (patch grid {tuple(method.image_encoder.grid)})"

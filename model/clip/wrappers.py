"""The state dict of one model in what a training script saved: groups of tensors, and wrappers in their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.words import number_of

GROUPS = ("state_dict", "model_state_dict", "model")
"""Keys under which most training scripts put the state dict; the first that is there is read."""
DEPTH = 8
"""Groups inside one another; a forged file can contain itself."""
OWN_STATE = frozenset({"settings", "position", "parts"})
"""Keys of the files in ``resume/`` from which an interrupted run of this project resumes."""

MODULE = "module"
"""What DataParallel and DistributedDataParallel put before the names of what they wrap."""
WRAPPER = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|_ddp_module)\."
)
"""What ``torch.compile``, FSDP, activation checkpointing and Lightning put before names, anywhere in them."""
FLAT = re.compile(r"(^|\.)_?flat_param(_\d+)?$")
"""Parameters that FSDP has joined to one vector."""


def find_state_dict(content: Any) -> dict:
    """The group of ``content`` that holds one model's tensors by name.

    Raises:
        ReIDError: there is none, or there are several and none is the usual one.
    """
    if not isinstance(content, dict):
        raise ReIDError(f"the file holds a {type(content).__name__}, not a state dict (name -> tensor).")
    if content.keys() >= OWN_STATE:
        raise ReIDError(
            "this is the saved state of an interrupted run, from which the same command resumes, and not a checkpoint. "
            "Name a checkpoint in the folder above resume/ (its name ends in an epoch's number or in best), or set "
            "RESUME to that folder."
        )
    usual = next((key for key in GROUPS if isinstance(content.get(key), dict) and _count(content[key])), None)
    if usual is None and any(_named(*entry) for entry in content.items()):
        return content
    groups = {str(key): value for key, value in content.items() if "optim" not in str(key) and _count(value)}
    if usual is None and len(groups) != 1:
        raise ReIDError(_several(groups, content))
    chosen = usual or next(iter(groups))
    others = {name: group for name, group in groups.items() if name != chosen}
    if others:
        LOGGER.info("the file's group %s is read; it also holds %s", chosen, _listed(others))
    elif usual is None:
        LOGGER.info("the file's group %s is read, the only one with a model's tensors", chosen)
    return find_state_dict(groups[chosen])


def _count(content: Any, depth: int = DEPTH) -> int:
    """How many named tensors the state dicts in ``content`` hold."""
    if not depth or not isinstance(content, dict):
        return 0
    return sum(1 if _named(key, value) else _count(value, depth - 1) for key, value in content.items())


def _named(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _several(groups: Mapping[str, dict], content: Mapping[Any, Any]) -> str:
    """The message for a file without exactly one state dict."""
    if groups:
        return (
            f"it holds several groups of tensors, {_listed(groups)}, and not one model's alone. Read the file with "
            f"torch.load and save the group you mean: torch.save(content[{next(iter(groups))!r}], NEW_FILE)."
        )
    found = f" It holds {', '.join(repr(key) for key in list(content)[:8])}." if content else ""
    return f"there are no tensors in this file; a state dict (name -> tensor) was expected.{found}"


def _listed(groups: Mapping[str, dict]) -> str:
    return ", ".join(f"{name} ({number_of(_count(group), 'tensor')})" for name, group in groups.items())


def without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under the names that the model itself gives them.

    ``module.`` is taken off in front of all names, or of all below one part of the model (``image_encoder.module.``);
    the names of the other wrappers belong to nothing else and are taken out wherever they stand.

    Raises:
        ReIDError: the tensors are FSDP's flattened vectors, or two of them would have one name.
    """
    flat = next((name for name in tensors if FLAT.search(name)), None)
    if flat is not None:
        raise ReIDError(
            f"{flat} is a vector of many parameters, as FSDP keeps them. Save the model again with FSDP's full state "
            "dict (StateDictType.FULL_STATE_DICT)."
        )
    renamed = _renamed(tensors, lambda name: WRAPPER.sub("", name))
    while renamed and all(name.startswith(f"{MODULE}.") for name in renamed):
        renamed = _renamed(renamed, lambda name: name.removeprefix(f"{MODULE}."))
    inside: dict[str, list[bool]] = {}
    for name in renamed:
        part, _, rest = name.partition(".")
        inside.setdefault(part, []).append(rest.startswith(f"{MODULE}."))
    wrapped = {part for part, found in inside.items() if all(found)}

    def unwrapped(name: str) -> str:
        part, _, rest = name.partition(".")
        return f"{part}.{rest.removeprefix(f'{MODULE}.')}" if part in wrapped else name

    return _renamed(renamed, unwrapped)


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        twice = next(name for name in tensors if rename(name) != name and rename(name) in tensors)
        raise ReIDError(f"it holds both {twice} and {rename(twice)}: two models, or one saved twice.")
    return renamed

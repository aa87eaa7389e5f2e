"""Reading weights: from any kind of file to plain float32 tensors under one set of names.

The content of a file determines its kind, never its name. No code of a file is run: pickles are read as plain tensors
(``weights_only``), TorchScript archives are parsed, ``safetensors`` files hold no code.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.base import METADATA
from model.clip.heads import check_heads
from model.clip.names import some_of, to_openai_names
from model.clip.seeded import SEEDED, with_start
from model.clip.torchscript import is_torchscript, read_torchscript
from model.clip.weight_files import head_of, kind
from model.clip.wrappers import find_state_dict, without_wrappers
from utils.errors import ReIDError
from utils.optional import MissingPackageError, import_optional

REID_MARKS = ("image_encoder.", "prompt_learner.")
"""How names begin that only a CLIP-ReID checkpoint has; ``classifier.weight`` and the like are common."""


class StateDict(dict[str, Tensor]):
    """Tensors by name, with what their file records of the model.

    Attributes:
        record: method, ``MODEL.NAME``, image size and other facts, in a checkpoint of this project; else empty.
    """

    def __init__(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any] | None = None) -> None:
        super().__init__(tensors)
        self.record = dict(record or {})


def read_state_dict(path: str | Path) -> StateDict:
    """The tensors of a file: floating-point ones as float32, none of them shared with the file.

    Read are ``torch.save`` files of a state dict, alone or as a group of a larger save (:mod:`model.clip.wrappers`),
    TorchScript archives and ``safetensors``. Wrappers are taken out of the names, entries that are no tensors are left
    out.

    Raises:
        ReIDError: no such file, or not a file of plain tensors, or a damaged one.
    """
    path = Path(path)
    head = head_of(path)
    try:
        # First, since a safetensors file begins with the length of its header, which can be any bytes.
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
            found = _read_safetensors(path)
        elif head.startswith(b"PK"):
            found = _read_zip(path)
        elif head.startswith(b"\x80"):
            found = _from_content(torch.load(path, map_location="cpu", weights_only=True))
        else:
            raise ReIDError(f"this is not a file of weights (torch.save, torch.jit.save or safetensors){kind(head)}.")
        if not found:
            raise ReIDError("there are no tensors in this file; a state dict (name -> tensor) was expected.")
        return StateDict(without_wrappers(found), found.record)
    except ReIDError as error:
        raise error if str(path) in str(error) else ReIDError(f"{path}: {error}") from None
    except Exception as error:  # readers of damaged files raise about anything
        raise ReIDError(f"{path}: {_what_went_wrong(error)}") from error


def read_clip_weights(path: str | Path) -> dict[str, Tensor]:
    """CLIP's tensors, float32, under OpenAI's names, of a file: :func:`read_state_dict`, then :func:`clip_weights`."""
    return clip_weights(read_state_dict(path), path)


def clip_weights(tensors: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """CLIP's tensors under OpenAI's names. May empty ``tensors``, which were read from ``path``.

    They are ``visual.*``, ``transformer.*``, ``token_embedding.weight``, ``positional_embedding``,
    ``ln_final.*``, ``text_projection`` and ``logit_scale``. Taken are OpenAI's own archives and state dicts,
    open_clip's checkpoints and Hugging Face's ``CLIPModel``, as long as both towers are OpenAI's designs. A
    file does not hold its activation (MODEL.ACTIVATION): OpenAI's weights were trained with QuickGELU, most of
    open_clip's own (``laion2b_*``, ``datacomp_*``) with GELU.

    Raises:
        ReIDError: the tensors are another model's, or their numbers of attention heads are others or unknown.
    """
    if is_reid_checkpoint(tensors):
        raise ReIDError(
            f"{path}: this is a CLIP-ReID checkpoint; CLIP's weights were expected. Name it in TEST.WEIGHT, or in "
            "MODEL.PRETRAIN_PATH to start another training from it."
        )
    try:
        check_heads(tensors, Path(path).parent)
        return to_openai_names(tensors)
    except ReIDError as error:
        raise ReIDError(f"{path}: {error}") from None


def read_reid_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a model of this project or of the published CLIP-ReID, by name (``image_encoder.*``, ...).

    Raises:
        ReIDError: see :func:`read_state_dict`; or the file holds something else, such as CLIP's own weights.
    """
    tensors = read_state_dict(path)
    if not is_reid_checkpoint(tensors):
        kind = "CLIP's own weights, for MODEL.PRETRAIN_PATH" if "visual.conv1.weight" in tensors else "something else"
        raise ReIDError(
            f"{path}: a CLIP-ReID checkpoint (image_encoder.*, classifier.*) was expected; "
            f"this is {kind}. It has {some_of(tensors)}."
        )
    return tensors


def is_reid_checkpoint(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a CLIP-ReID model rather than of CLIP."""
    return any(name.startswith(REID_MARKS) for name in tensors)


def _what_went_wrong(error: Exception) -> str:
    """The reader's error as one sentence; PyTorch's advice to trust the file is left out."""
    if isinstance(error, MissingPackageError):
        return f"reading this file needs the package safetensors; {error}. Run pip install safetensors."
    needed = re.search(r"GLOBAL (\S+)|needs (\S+)", str(error))
    if needed:
        return (
            f"this file holds more than plain tensors: loading it would run {(needed[1] or needed[2]).rstrip('.')}. "
            "It was not run. Save the state dict alone: torch.save(model.state_dict(), ...)."
        )
    reason = str(error).strip().partition("\n")[0][:120]
    detail = type(error).__name__ + (f": {reason}" if reason and "Weights only" not in reason else "")
    return f"the file is damaged or cut short, or isn't one of weights ({detail}). Download or copy it again."


def _read_zip(path: Path) -> StateDict:
    with zipfile.ZipFile(path) as archive:
        if is_torchscript(archive):
            return StateDict(_own(read_torchscript(archive)))
        if not any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist()):
            raise ReIDError(
                f"{path}: a zip archive without PyTorch weights. If it contains a file of weights, unpack it."
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ReIDError(f"{path}: its content is compressed, which torch.save never does. Save the weights again.")
        # Torch does not compare the checksums that it writes; some files have none, which is 0 everywhere.
        if any(member.CRC for member in archive.infolist()) and (damaged := archive.testzip()):
            raise ReIDError(
                f"{path}: the file is damaged: its part {damaged} does not have its checksum. Copy it again."
            )
    # Mapped, not read: optimizer states and whatever else is in the file never reach memory.
    return _from_content(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _read_safetensors(path: Path) -> StateDict:
    with import_optional("safetensors").safe_open(path, framework="pt") as file:
        tensors = _own((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 (no mapping)
        header = file.metadata() or {}
    if SEEDED in header:
        tensors = with_start(tensors, _json(header[SEEDED]) or {})
    return StateDict(tensors, _json(header.get(METADATA, "")))


def _json(text: str) -> dict[str, Any] | None:
    """A record in a header; None where there is none that can be read."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _from_content(content: Any) -> StateDict:
    """The state dict in what ``torch.load`` returned, let go tensor by tensor, so that memory never holds it twice."""
    state = find_state_dict(content)
    kept = getattr(state, "_metadata", None)
    record = kept.get(METADATA) if isinstance(kept, dict) else None
    named = ((name, state.pop(name)) for name in list(state))
    tensors = _own((name, value) for name, value in named if isinstance(name, str) and isinstance(value, Tensor))
    return StateDict(tensors, record if isinstance(record, dict) else None)


def _own(entries: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies that don't depend on the file, floating-point ones in float32."""
    owned = {}
    for name, tensor in entries:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ReIDError(
                f"the tensor {name} is not a dense tensor of plain numbers but {tensor.layout}, {tensor.dtype}, on "
                f"{tensor.device}. Save it dense and not quantized."
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} claims {tensor.numel()} elements and stores fewer")
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        owned[name] = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    return owned

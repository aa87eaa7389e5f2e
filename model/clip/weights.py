"""Reading weights: whatever file they come in, plain float32 tensors under one set of names come out.

What a file is, its content tells, never its name. No code of a file is run: pickles are read as plain tensors
(``weights_only``), TorchScript archives are parsed, ``safetensors`` files hold no code.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.clip.names import some_of, to_openai_names
from model.clip.torchscript import is_torchscript, read_torchscript
from utils.errors import ReIDError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the state dict."""
PREFIX = re.compile(r"(module\.|_orig_mod\.)+")
"""What DataParallel and ``torch.compile`` put before every name."""
REID_MARKS = ("image_encoder.", "prompt_learner.")
"""How names begin that only a CLIP-ReID checkpoint has; ``classifier.weight`` and the like are common."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file: floating-point ones as float32, none of them shared with the file.

    Read are ``torch.save`` files of a state dict (also wrapped in ``{"state_dict": ...}`` or ``{"model":
    ...}``), TorchScript archives and ``safetensors``. A prefix ``module.`` is taken off, entries that are
    no tensors are left out.

    Raises:
        ReIDError: no such file, or not a file of plain tensors, or a damaged one.
    """
    path = Path(path)
    head = _head(path)
    try:
        # First, since a safetensors file begins with the length of its header, which can be any bytes.
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
            tensors = _own(_read_safetensors(path))
        elif head.startswith(b"PK"):
            tensors = _read_zip(path)
        elif head.startswith(b"\x80"):
            tensors = _own(_entries(torch.load(path, map_location="cpu", weights_only=True)))
        else:
            raise ReIDError(f"{path}: this is no file of weights (torch.save, torch.jit.save or safetensors).")
    except ReIDError:
        raise
    except Exception as error:  # readers of damaged files raise about anything
        raise ReIDError(f"{path}: {_what_went_wrong(error)}") from error
    if not tensors:
        raise ReIDError(f"{path}: there are no tensors in this file; a state dict (name -> tensor) was expected.")
    if all(PREFIX.match(name) for name in tensors):
        tensors = {PREFIX.sub("", name, count=1): tensor for name, tensor in tensors.items()}
    return tensors


def read_clip_weights(path: str | Path) -> dict[str, Tensor]:
    """CLIP's tensors, float32, under OpenAI's names, of a file: :func:`read_state_dict`, then :func:`clip_weights`."""
    return clip_weights(read_state_dict(path), path)


def clip_weights(tensors: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """CLIP's tensors under OpenAI's names. May empty ``tensors``, which were read from ``path``.

    They are ``visual.*``, ``transformer.*``, ``token_embedding.weight``, ``positional_embedding``,
    ``ln_final.*``, ``text_projection`` and ``logit_scale``. Taken are OpenAI's own archives and state dicts,
    open_clip's checkpoints and Hugging Face's ``CLIPModel``, as long as both towers are OpenAI's designs. A
    file does not tell its activation (MODEL.ACTIVATION): OpenAI's weights were trained with QuickGELU, most of
    open_clip's own (``laion2b_*``, ``datacomp_*``) with GELU.

    Raises:
        ReIDError: the tensors are another model's.
    """
    if is_reid_checkpoint(tensors):
        raise ReIDError(
            f"{path}: this is a CLIP-ReID checkpoint; CLIP's weights were expected. Name it in TEST.WEIGHT, or in "
            "MODEL.PRETRAIN_PATH to start another training from it."
        )
    try:
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


def _head(path: Path) -> bytes:
    """The first bytes; what is often saved in place of weights is refused by what it is."""
    if not path.is_file():
        what = "this is a folder; name the file in it" if path.is_dir() else "no such file"
        raise ReIDError(f"{path}: {what}. Weights were expected there.")
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise ReIDError(f"{path}: cannot be read ({error.strerror}).") from error
    if not head:
        raise ReIDError(f"{path}: the file is empty. Download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise ReIDError(f"{path}: this is a Git LFS pointer, not the file itself. Fetch that with 'git lfs pull'.")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise ReIDError(
            f"{path}: this is a web page, not weights; the download link led to a page (a login, a warning). "
            "Open the link in a browser and save the file it offers."
        )
    return head


def _what_went_wrong(error: Exception) -> str:
    """The reader's trouble in one sentence for the user; PyTorch's advice to trust the file is left out."""
    if isinstance(error, ImportError):
        return "reading this file needs the package safetensors: pip install safetensors."
    asked = re.search(r"GLOBAL (\S+)|asks for (\S+)", str(error))
    if asked:
        return (
            f"this file isn't plain tensors: loading it would run {(asked[1] or asked[2]).rstrip('.')}. "
            "It was not run. Save the state dict alone: torch.save(model.state_dict(), ...)."
        )
    reason = str(error).strip().partition("\n")[0][:120]
    detail = type(error).__name__ + (f": {reason}" if reason and "Weights only" not in reason else "")
    return f"the file is damaged or cut short, or isn't one of weights ({detail}). Download or copy it again."


def _read_zip(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        if is_torchscript(archive):
            return _own(read_torchscript(archive))
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
    return _own(_entries(torch.load(path, map_location="cpu", weights_only=True, mmap=True)))


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            yield name, file.get_tensor(name)


def _entries(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of a state dict, let go one by one, so that memory never holds it twice."""
    while isinstance(content, dict) and (key := next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)):
        content = content.pop(key)  # popped, so that a dict that contains itself ends too
    if not isinstance(content, dict):
        raise TypeError(f"the file holds a {type(content).__name__}, not a state dict")
    for name in list(content):
        value = content.pop(name)
        if isinstance(name, str) and isinstance(value, Tensor):
            yield name, value


def _own(entries: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies that don't depend on the file, floating-point ones in float32."""
    owned = {}
    for name, tensor in entries:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise TypeError(f"{name} is not a dense tensor of plain numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} claims {tensor.numel()} elements and stores fewer")
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        owned[name] = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    return owned

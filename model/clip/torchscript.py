"""Tensors out of a TorchScript archive, in which OpenAI published CLIP, without running any of its code.

An archive is a zip file: ``code/`` holds a program, which is never looked at; ``data.pkl`` holds the tree
of modules as a pickle; ``data/<key>`` holds the numbers of one storage each. A pickle is a program too, whose reader
decides what it may call: here only what a tree of tensors needs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
CONTAINERS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
"""Functions of ``torch.jit._pickle`` that hand back their first argument."""


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """Whether ``torch.jit.save`` wrote the zip file: only then it has a ``constants.pkl``."""
    return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def read_torchscript(archive: zipfile.ZipFile) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, one at a time, as a ``torch.jit.save`` archive stores them.

    The names are those of the ``state_dict``, except that a module met twice is named once.

    Raises:
        pickle.UnpicklingError: the pickle needs more than tensors in modules.
        Exception: of any other kind, since a damaged file can break reading anywhere.
    """
    member = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), None)
    if member is None:
        raise pickle.UnpicklingError("it has no data.pkl")
    data = archive.read(_stored_as_is(archive, member))
    # A memo number of 2**32, written in five bytes, would make the unpickler ask for as many slots.
    memo = [arg for code, arg, _ in pickletools.genops(data) if code.name in ("PUT", "BINPUT", "LONG_BINPUT")]
    if max(memo, default=0) > len(data):
        raise pickle.UnpicklingError("a memo number is out of range")
    tree = _TreeUnpickler(io.BytesIO(data)).load()
    if not isinstance(tree, _Module):
        raise pickle.UnpicklingError("data.pkl holds no module")
    for name, placed in _walk(tree, "", set()):
        yield name, _read_tensor(archive, member.removesuffix("data.pkl"), placed)


class _Module:
    """Stands for any scripted class; the pickle fills in its attributes."""


class _Placed(NamedTuple):
    """Where a tensor lies. The unpickler makes no tensors, so a pickle cannot change one."""

    storage: tuple[str, torch.dtype, str, str, int]
    """The word ``storage``, type, key in the archive, device, number of elements."""
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _TreeUnpickler(pickle.Unpickler):
    """Reads modules and where their tensors lie; refuses every other name."""

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def find_class(self, module: str, name: str) -> Any:
        # What is handed out is made afresh each time, or immutable: a pickle can set attributes on it.
        if module.split(".")[0] == "__torch__":
            return type("Scripted", (_Module,), {})
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        if module == "torch.jit._pickle" and name in CONTAINERS:
            return lambda value, *_: value
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, size, stride, *_: _Placed(storage, offset, size, stride)
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch", "device":
                return lambda *_: None
        raise pickle.UnpicklingError(f"its pickle needs {module}.{name}")


def _walk(module: _Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, _Placed]]:
    """Depth first, as ``state_dict`` does; ``seen`` makes an end where a tree contains itself."""
    seen.add(id(module))
    for name, value in vars(module).items():
        if isinstance(value, _Placed):
            yield prefix + name, value
        elif isinstance(value, _Module) and id(value) not in seen:
            yield from _walk(value, f"{prefix}{name}.", seen)


def _read_tensor(archive: zipfile.ZipFile, root: str, placed: _Placed) -> Tensor:
    _, dtype, key, _, count = placed.storage
    member = _stored_as_is(archive, f"{root}data/{key}")
    if member.file_size != count * dtype.itemsize:
        raise pickle.UnpicklingError(f"{member.filename} has {member.file_size} bytes, not {count} x {dtype}")
    storage = torch.empty(count, dtype=dtype)
    with archive.open(member) as stream:
        stream.readinto(storage.view(torch.uint8).numpy())
    return storage.as_strided(placed.size, placed.stride, placed.offset)


def _stored_as_is(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """PyTorch never compresses these members; a few compressed bytes could unfold to any size."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise pickle.UnpicklingError(f"{name} is compressed")
    return member

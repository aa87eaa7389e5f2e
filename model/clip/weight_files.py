"""What a path holds where a file of weights was expected, by its name and first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from utils.errors import ReIDError

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
"""Of files of weights, as their writers call them."""
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.\w+")
"""How the name of one shard of a larger save ends: its number and how many there are."""
FORMATS = {
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive: unpack it",
}
"""How other kinds of files begin that may be taken for weights."""
ONNX = re.compile(rb"\x08[\x01-\x20](\x12.(pytorch|onnx|tf2onnx|skl2onnx|keras)|:)", re.DOTALL)
"""An ONNX file begins with its version and, as a rule, the name of its writer."""
ONE_FILE = "Save the model again in one file (transformers: save_pretrained(FOLDER, max_shard_size='100GB'))."


def head_of(path: Path) -> bytes:
    """The first 512 bytes of a file of weights.

    Raises:
        ReIDError: there is no file, or one that is often saved in place of weights, or one shard of several.
    """
    if not path.is_file():
        raise ReIDError(f"{path}: {missing(path)}")
    if (shard := SHARD.search(path.name)) and int(shard[2]) > 1:
        raise ReIDError(f"{path}: this is shard {int(shard[1])} of {int(shard[2])} of the weights. {ONE_FILE}")
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


def missing(path: Path) -> str:
    """What is at ``path`` if that is no file, and what to name in its place."""
    if not path.is_dir():
        return "no such file. Weights were expected there."
    if (path / ".metadata").is_file():
        return (
            "this is a folder of torch.distributed.checkpoint. Turn it into one file with "
            "'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE'."
        )
    found = sorted(file for file in path.iterdir() if file.suffix in ENDINGS and file.is_file())
    whole = [file for file in found if not SHARD.search(file.name)]
    if found and not whole:
        return f"this is a folder with weights in {len(found)} shards, first {found[0].name}. {ONE_FILE}"
    if not whole:
        return f"this is a folder, and no file in it ends in {', '.join(ENDINGS)}. Name a file of weights."
    newest = max(whole, key=lambda file: file.stat().st_mtime)
    return f"this is a folder. Name the file in it: {newest}" + (f", or one of {len(whole)}." if whole[1:] else ".")


def kind(head: bytes) -> str:
    """What a file is that holds no weights, as the rest of a sentence; empty if unknown."""
    if ONNX.match(head):
        return (
            ", but an ONNX file, which other programs run. TEST.WEIGHT is the .pth checkpoint that it was exported from"
        )
    if head.lstrip()[:1] == b"{" and b"weight_map" in head:
        return f", but the index of weights in several shards. {ONE_FILE.removesuffix('.')}"
    return next((f", but {what}" for start, what in FORMATS.items() if head.startswith(start)), "")

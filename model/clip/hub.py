"""Weights by their address on Hugging Face's hub, ``hf://owner/name``, from the hub's cache or by its own client."""

from __future__ import annotations

import re
from pathlib import Path

from utils.errors import ReIDError
from utils.optional import MissingPackageError, import_optional

SCHEME = "hf://"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w./-]+))?")
"""Repository, revision and file."""
FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
"""What the weights of a repository are called, in the order in which they are looked for."""
CONFIGURATIONS = ("config.json", "open_clip_config.json")
"""Small files beside them, which state the numbers of attention heads."""


def hub_file(address: str) -> Path:
    """The file at ``hf://owner/name``, ``hf://owner/name/file`` or ``hf://owner/name@revision``.

    A file in the hub's cache is used without a network access; another one is downloaded into the cache.

    Raises:
        ReIDError: not such an address, or the download failed: where it is, and where to name it.
    """
    parts = ADDRESS.fullmatch(address)
    if parts is None:
        raise ReIDError(
            f"MODEL.PRETRAIN_PATH = {address!r}: expected {SCHEME}owner/name, {SCHEME}owner/name@revision or "
            f"{SCHEME}owner/name/file, such as {SCHEME}openai/clip-vit-base-patch16."
        )
    repository, revision, wanted = parts.groups()
    try:
        return _find(repository, revision, (wanted,) if wanted else FILES)
    except MissingPackageError as error:
        raise ReIDError(
            f"MODEL.PRETRAIN_PATH = {address}: needs the package huggingface_hub ({error}). "
            "Install it: pip install huggingface_hub."
        ) from None
    except Exception as error:  # of the hub's, the network's and this module's own classes
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
        raise ReIDError(
            f"MODEL.PRETRAIN_PATH = {address}: the weights are not in the hub's cache, and the download failed: "
            f"{reason}.\n"
            f"  from: https://huggingface.co/{repository}/tree/{revision or 'main'}\n"
            f"Download {wanted or FILES[0]} and {CONFIGURATIONS[0]} on a machine with a network, put both into one "
            "folder and name the file of weights in MODEL.PRETRAIN_PATH."
        ) from None


def _find(repository: str, revision: str | None, names: tuple[str, ...]) -> Path:
    hub = import_optional("huggingface_hub")
    missing = import_optional("huggingface_hub.utils").EntryNotFoundError
    for name in names:
        cached = hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    for name in names:
        try:
            # One request: the client's own download repeats each of its requests for half a minute without a network.
            hub.get_hf_file_metadata(hub.hf_hub_url(repository, name, revision=revision))
        except missing:
            continue
        for configuration in CONFIGURATIONS:
            try:
                hub.hf_hub_download(repository, configuration, revision=revision)
            except missing:
                continue
        return Path(hub.hf_hub_download(repository, name, revision=revision))
    raise ReIDError(f"it has no {' or '.join(names)}; name one of its files: {SCHEME}{repository}/FILE")

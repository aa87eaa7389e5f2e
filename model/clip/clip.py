"""Where CLIP's pre-trained weights come from: a file of the user, a hub, the cache, or OpenAI's server."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.request
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from model.clip.hub import SCHEME, hub_file
from model.clip.shapes import named_shape
from model.clip.weight_files import missing
from utils.errors import ReIDError

logger = logging.getLogger(__name__)


class Weights(NamedTuple):
    """A published file and what its content must hash to."""

    url: str
    sha256: str


def _published(sha256: str, file: str) -> Weights:
    return Weights(f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}", sha256)


PRETRAINED: dict[str, Weights] = {
    "RN50": _published("afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", "RN50.pt"),
    "RN101": _published("8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599", "RN101.pt"),
    "RN50x4": _published("7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd", "RN50x4.pt"),
    "ViT-B-32": _published("40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", "ViT-B-32.pt"),
    "ViT-B-16": _published("5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", "ViT-B-16.pt"),
    "ViT-L-14": _published("b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", "ViT-L-14.pt"),
    "ViT-L-14-336": _published("3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", "ViT-L-14-336px.pt"),
}
"""OpenAI's weights by ``MODEL.NAME``."""

CACHE_VARIABLE = "CLIP_CACHE"
"""Environment variable that names the cache folder; without it ``~/.cache/clip``, as in OpenAI's code."""
SIZE_LIMIT = 2 << 30
"""Bytes; the largest file of the table has 0.9 GB."""
TIMEOUT = 30.0
"""Seconds without any data after which a download is given up."""
PROTOCOLS: tuple[type[urllib.request.BaseHandler], ...] = (urllib.request.HTTPSHandler,)
"""The only protocol: a redirection to plain HTTP fails."""


def find_weights(name: str, path: str | Path = "", cache_dir: str | Path | None = None) -> Path:
    """A file with the CLIP weights of ``name``: ``path`` if given, else from the cache, else downloaded.

    Cached and downloaded files are checked by their SHA-256. Weights are never left random.

    Args:
        name: ``MODEL.NAME``, e.g. ``ViT-B-16`` or ``ViT-B/16``.
        path: ``MODEL.PRETRAIN_PATH``, a file of the user's, which is not checked here, or ``hf://owner/name``.
        cache_dir: folder of the cache; by default ``$CLIP_CACHE`` or ``~/.cache/clip``.

    Raises:
        ReIDError: ``path`` is no file, nothing is published under ``name``, or the download failed.
    """
    if str(path).startswith(SCHEME):
        return hub_file(str(path))
    if path:
        own = Path(path).expanduser()
        if not own.is_file():
            raise ReIDError(
                f"MODEL.PRETRAIN_PATH = {str(path)!r}: {missing(own)} The first lines of the recipe or docs/methods.md "
                f"say where weights come from; left empty, those of {name} are downloaded."
            )
        return own
    named_shape(name)  # an unknown name has a message of its own
    weights = PRETRAINED.get(name.replace("/", "-").replace("@", "-").removesuffix("px"))
    if weights is None:
        raise ReIDError(
            f"MODEL.NAME = {name!r}: OpenAI published no weights for it, only for {', '.join(PRETRAINED)}. Name a file "
            "or hf://owner/name in MODEL.PRETRAIN_PATH, or start at random with MODEL.PRETRAIN_CHOICE 'random'."
        )
    folder = Path(cache_dir or os.environ.get(CACHE_VARIABLE) or "~/.cache/clip").expanduser()
    target = folder / weights.url.rpartition("/")[2]
    if target.is_file():
        if _sha256(target) == weights.sha256:
            return target
        logger.warning("%s is not the published file (its SHA-256 differs); it is downloaded again.", target)
    try:
        download(weights, target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ReIDError(
            f"CLIP's weights for MODEL.NAME = {name!r} are needed and could not be downloaded: {reason}.\n"
            f"  from:    {weights.url}\n"
            f"  SHA-256: {weights.sha256}\n"
            f"Download the file on a machine with a network and put it at {target}, or anywhere and name it in "
            "MODEL.PRETRAIN_PATH."
        ) from error
    return target


def download(weights: Weights, target: Path) -> None:
    """Fetch a file and check it; ``target`` appears only once the content is right.

    Raises:
        OSError: the network or the disk failed.
        ValueError: what came is too large or is not the published content.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    logger.info("Downloading %s", weights.url)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")  # several processes may start at once
    try:
        with part.open("wb") as file, _open(weights.url) as response:
            digest = _copy(response, file)
        if digest != weights.sha256:
            raise ValueError(f"the downloaded content is not the published one (SHA-256 {digest})")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _open(url: str) -> http.client.HTTPResponse:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        *PROTOCOLS,
    ):
        opener.add_handler(handler())
    return opener.open(url, timeout=TIMEOUT)


def _copy(response: http.client.HTTPResponse, file: BinaryIO) -> str:
    """Copy in pieces with a progress bar (on a terminal); the SHA-256 of what came."""
    announced = int(response.headers.get("Content-Length") or 0)
    digest, received = hashlib.sha256(), 0
    with tqdm(total=announced or None, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        while piece := response.read(1 << 20):
            received += len(piece)
            if max(received, announced) > SIZE_LIMIT:
                raise ValueError(f"more than {SIZE_LIMIT} bytes are announced or were received")
            file.write(piece)
            digest.update(piece)
            bar.update(len(piece))
    if received < announced:
        raise ValueError(f"the connection ended after {received} of {announced} bytes")
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

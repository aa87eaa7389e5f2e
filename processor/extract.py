"""Write the features of a folder of images, to be used by other programs.

OUTPUT receives features.npy, [N, D] float32, which numpy can map from disk (np.load(..., mmap_mode="r")), and
listing.csv, whose n-th row names the image of row n. An interrupted extraction goes on where it stopped when the same
command is given again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from processor.embedder import Embedder, load_embedder
from utils.checkpoint import new_array, save_json, write_text
from utils.command_line import run_script
from utils.errors import ReIDError
from utils.images import IMAGE_SUFFIXES
from utils.logger import LOGGER, setup_console
from utils.text_files import read_text

EXAMPLE = (
    "python -m processor.extract --config_file configs/hand/demo.yml TEST.WEIGHT output/hand/demo/RN-Small_28.pth "
    "--images data/hands/test/gallery --output output/features"
)
SAVE_EVERY = 20
"""Batches between two saved states."""


class Listed(NamedTuple):
    """An image of a folder: its path below it, and whom it shows by that path."""

    name: str
    identity: str


def list_folder(folder: Path) -> list[Listed]:
    """All images under ``folder``, by name. Identities are the first folder's name, or a file's name up to ``_``.

    Raises:
        ReIDError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ReIDError(f"{folder}: no such folder. Name a folder of images.")
    found = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise ReIDError(f"{folder}: no images found; expected files such as {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return [Listed(p.as_posix(), p.parts[0] if len(p.parts) > 1 else p.stem.split("_")[0]) for p in found]


def extract(embedder: Embedder, folder: Path, output: Path, source: str) -> tuple[np.ndarray, list[Listed]]:
    """Features [N, D], mapped from ``output``, of the images in ``folder``, and what they are of.

    Args:
        embedder: computes them.
        folder: of images.
        output: folder of ``features.npy``, ``listing.csv`` and the state to resume from.
        source: tells what the features come from; only features of the same source and images are gone on with.

    Raises:
        ReIDError: a folder without images, an unreadable image, ``output`` cannot be written.
        InterruptedRunError: a signal asked to stop; the same call goes on.
    """
    listed = list_folder(folder)
    key = _fingerprint(source, folder, listed)
    state, path = output / "extract.json", output / "features.npy"
    done = _done(state, path, key, len(listed))
    if done == len(listed):
        LOGGER.info("%s holds the features of all %d images already", output, done)
        return np.load(path, mmap_mode="r"), listed
    if done:
        LOGGER.info("%d of %d features are in %s already; going on", done, len(listed), output)
    _write_listing(output / "listing.csv", listed)
    features = np.load(path, mmap_mode="r+") if done else None
    try:
        paths = [folder / image.name for image in listed[done:]]
        for number, part in enumerate(embedder.batches(paths, done)):
            if features is None:
                features = new_array(path, (len(listed), part.shape[1]))
            features[done : done + len(part)] = part
            done += len(part)
            if number % SAVE_EVERY == 0:
                _save(features, state, key, done)
    finally:
        if features is not None:
            _save(features, state, key, done)
    return np.load(path, mmap_mode="r"), listed


def _fingerprint(source: str, folder: Path, listed: Sequence[Listed]) -> str:
    facts = hashlib.sha256(source.encode())
    for image in listed:
        status = (folder / image.name).stat()
        facts.update(f"{image.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return facts.hexdigest()


def _done(state: Path, features: Path, key: str, count: int) -> int:
    """How many features of the same source and images are there."""
    try:
        known = json.loads(read_text(state))
        array = np.load(features, mmap_mode="r", allow_pickle=False)
        usable = known["key"] == key and array.dtype == np.float32 and array.ndim == 2 and len(array) == count
        done = int(known["done"]) if usable else 0
    except Exception:  # whatever is there, it is not what this command wrote
        return 0
    if not usable:
        LOGGER.warning("%s holds the features of other images, weights or settings: starting over", features.parent)
    return done if 0 <= done <= count else 0


def _save(features: np.memmap, state: Path, key: str, done: int) -> None:
    features.flush()
    save_json({"key": key, "done": done}, state)


def _write_listing(path: Path, listed: Sequence[Listed]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "path", "identity"])
    writer.writerows([row, *image] for row, image in enumerate(listed))
    write_text(path, text.getvalue())


def open_embedder(config_file: str, overrides: Sequence[str]) -> tuple[Embedder, str]:
    """The model in ``TEST.WEIGHT``, and a text that changes with whatever changes its features.

    Raises:
        ReIDError: as :func:`load_embedder`, or ``TEST.WEIGHT`` is not given.
    """
    from configs import load_config  # see load_embedder

    cfg, _ = load_config(config_file, overrides)
    if not cfg.TEST.WEIGHT:
        raise ReIDError("TEST.WEIGHT is empty: name the checkpoint or .onnx file, TEST.WEIGHT PATH.")
    embedder = load_embedder(config_file, cfg.TEST.WEIGHT, overrides)
    with Path(cfg.TEST.WEIGHT).open("rb") as file:
        weight = hashlib.file_digest(file, "sha256").hexdigest()
    test = (cfg.TEST.NECK_FEAT, cfg.TEST.FEAT_NORM, cfg.TEST.FLIP)
    return embedder, f"{weight} {cfg.MODEL.dump()} {cfg.INPUT.dump()} {test}"


def run(config_file: str, overrides: Sequence[str], images: Path, output: Path) -> None:
    """Extract, and say what is there."""
    setup_console()
    embedder, source = open_embedder(config_file, overrides)
    features, _ = extract(embedder, images, output, source)
    LOGGER.info("%s: %d features of %d numbers; listing.csv names their images", output, *features.shape)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m processor.extract",
        description=__doc__,
        epilog=f"example: {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config_file", metavar="FILE", required=True, help="YAML file of the training")
    parser.add_argument(
        "--images", metavar="DIR", type=Path, required=True, help="folder of images, searched to its depths"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder that receives the features")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="pairs that override the file: TEST.WEIGHT PATH")
    arguments = parser.parse_intermixed_args(argv)
    return run_script(partial(run, arguments.config_file, arguments.opts, arguments.images, arguments.output))


if __name__ == "__main__":
    sys.exit(main())

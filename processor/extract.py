"""Write the features of a folder of images to files for other programs.

OUTPUT receives features.npy, [N, D] float32, which numpy can map from disk (np.load(..., mmap_mode="r")), and
listing.csv, whose n-th row names the image of row n. Both appear when all images are done. An interrupted extraction
resumes when the same command is repeated.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs import load_config
from datasets.bases import WARNING
from datasets.parsing.folders import images_below, note_lost, note_others
from datasets.parsing.tables import csv_text
from processor.embedder import Embedder, load_embedder
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.folder_lock import folder_held
from utils.console.logger import LOGGER, setup_console
from utils.errors import ReIDError
from utils.files.checkpoint import new_array, save_json, write_text
from utils.files.text_files import nfc, read_text
from utils.images import IMAGE_SUFFIXES, Windows

EXAMPLES = (
    "python -m processor.extract --config_file configs/hand/demo.yml TEST.WEIGHT output/hand/demo/RN-Small_16.pth "
    "--images data/hands/test/gallery --output output/features",
)
SAVE_EVERY = 20
"""Batches between two saved states."""


class Listed(NamedTuple):
    """An image of a folder: its path below it, and whom it shows by that path."""

    name: str
    identity: str


def list_folder(folder: Path) -> list[Listed]:
    """All images under ``folder``, by name. Identities are the first folder's name, or a file's name up to ``_``.

    What counts as an image, and what is left out, is the same as in training (:mod:`datasets.parsing.folders`).

    Raises:
        ReIDError: there is no such folder, one that cannot be read, or no image in it.
    """
    if not folder.is_dir():
        raise ReIDError(f"{folder}: no such folder. Name a folder of images.")
    images, others = images_below(folder)
    if not images:
        kinds = "; ".join(note_others(others, str(folder))) or "it holds no other file either"
        raise ReIDError(
            f"{folder}: no images found ({kinds}); expected files such as {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    listed = [Listed(name, _identity(name)) for name in images]
    known = {image.identity for image in listed}
    lost: dict[str, list[str]] = {}
    for name in others:
        if "/" in name and _identity(name) not in known:
            lost.setdefault(_identity(name), []).append(name)
    for note in (*note_others(others, str(folder)), *note_lost(lost, str(folder))):
        LOGGER.warning("%s", note.removeprefix(WARNING))
    return listed


def _identity(name: str) -> str:
    first, slash, _ = name.partition("/")
    return nfc(first if slash else Path(name).stem.split("_")[0])


def extract(embedder: Embedder, folder: Path, output: Path, source: str) -> tuple[np.ndarray, list[Listed]]:
    """Features [N, D], mapped from ``output``, of the images in ``folder``, and what they are of.

    They stay those of these images whatever another extraction does to ``output`` later: a file of features appears
    under its name when it is complete, and is replaced, never written on.

    Args:
        embedder: computes them.
        folder: of images.
        output: folder of ``features.npy``, ``listing.csv`` and the state to resume from.
        source: what the features come from; only features of the same source and images are continued.

    Raises:
        ReIDError: a folder without images, an unreadable image, ``output`` cannot be written, or another process is
            extracting to it.
        InterruptedRunError: stopped by a signal; the same call resumes.
    """
    listed = list_folder(folder)
    files = _Files(output, _fingerprint(source, folder, listed, embedder.reading.windows), len(listed))
    features = files.finished()
    if features is not None:
        LOGGER.info("%s holds the features of all %d images already", output, len(listed))
        return features, listed
    try:
        output.mkdir(parents=True, exist_ok=True)
        with folder_held(output, f"{output}: an extraction or a search is writing there", "or name another folder."):
            _compute(embedder, [folder / image.name for image in listed], files)
            _write_listing(output / "listing.csv", listed)
            files.unfinished.replace(files.features)
            return np.load(files.features, mmap_mode="r"), listed
    except OSError as error:
        raise ReIDError(
            f"{output}: cannot be used ({error}). Check the folder, its permissions and the disk."
        ) from error


def _compute(embedder: Embedder, paths: Sequence[Path], files: _Files) -> None:
    """Fill the unfinished file, from where an interrupted call stopped."""
    done, features = files.resume()
    try:
        for number, part in enumerate(embedder.batches(paths[done:], done)):
            if features is not None and part.shape[1] != features.shape[1]:
                features = None  # features of an unknown source
                files.start_over()
                return _compute(embedder, paths, files)
            if features is None:
                features = new_array(files.unfinished, (len(paths), part.shape[1]))
            features[done : done + len(part)] = part
            done += len(part)
            if number % SAVE_EVERY == 0:
                files.save(features, done)
    finally:
        if features is not None:
            files.save(features, done)


class _Files:
    """What lies in the output of an extraction.

    Attributes:
        state: says whose features are there or in the making, and how many are computed.
        unfinished: the features in the making; absent when ``state`` is of finished ones.
        features: complete ones.
    """

    def __init__(self, folder: Path, key: str, count: int) -> None:
        self.key, self.count = key, count
        self.state, self.features = folder / "extract.json", folder / "features.npy"
        self.unfinished = folder / "features.npy.part"

    def finished(self) -> np.ndarray | None:
        """The features, if they are of these images and complete."""
        if self._done() < self.count or self.unfinished.exists():
            return None
        features = self._map(self.features, "r")
        return features if self._done() == self.count else None  # unless another process has begun to replace them

    def resume(self) -> tuple[int, np.ndarray | None]:
        """How many of these images' features are in the unfinished file, and that; else a clean start."""
        done = self._done()
        features = self._map(self.unfinished, "r+") if done else None
        if features is not None:
            LOGGER.info("resuming: %d of %d features are in %s", done, self.count, self.state.parent)
            return done, features
        self.start_over()
        return 0, None

    def start_over(self) -> None:
        """Discard what was computed: first the state, which describes the files."""
        if self.state.exists():
            folder = self.state.parent
            LOGGER.warning("%s holds the features of other images, weights or settings: starting over", folder)
        self.state.unlink(missing_ok=True)
        self.unfinished.unlink(missing_ok=True)

    def save(self, features: np.memmap, done: int) -> None:
        features.flush()
        save_json({"key": self.key, "done": done}, self.state)

    def _done(self) -> int:
        try:
            known = json.loads(read_text(self.state))
            done = int(known["done"]) if known["key"] == self.key else 0
        except Exception:  # not a file of this command
            return 0
        return done if 0 <= done <= self.count else 0

    def _map(self, path: Path, mode: str) -> np.ndarray | None:
        """The features in ``path``, if this command may have written them."""
        try:
            if not path.is_file():
                return None  # opening a pipe would block
            array = np.load(path, mmap_mode=mode, allow_pickle=False)
            usable = array.dtype == np.float32 and array.ndim == 2 and len(array) == self.count
        except Exception:
            return None
        return array if usable else None


def _fingerprint(source: str, folder: Path, listed: Sequence[Listed], windows: Windows) -> str:
    facts = hashlib.sha256(source.encode())
    for image in listed:
        try:
            status = (folder / image.name).stat()
            window = windows.get(str(folder / image.name)) or ""
            line = f"{image.name}\0{status.st_size}\0{status.st_mtime_ns}{window}\n"
            facts.update(line.encode("utf-8", "surrogateescape"))
        except OSError:  # a dangling link: reading it raises the error
            facts.update(f"{image.name}\n".encode("utf-8", "surrogateescape"))
    return facts.hexdigest()


def _write_listing(path: Path, listed: Sequence[Listed]) -> None:
    write_text(path, csv_text(("row", "path", "identity"), ([row, *image] for row, image in enumerate(listed))))


def open_embedder(config_file: str, overrides: Sequence[str]) -> tuple[Embedder, str]:
    """The model in ``TEST.WEIGHT``, and a text that changes with whatever changes its features.

    Raises:
        ReIDError: as :func:`load_embedder`, or ``TEST.WEIGHT`` is not given.
    """
    cfg, _ = load_config(config_file, overrides)
    if not cfg.TEST.WEIGHT:
        raise ReIDError("TEST.WEIGHT is empty: name the checkpoint or .onnx file, TEST.WEIGHT PATH.")
    embedder = load_embedder(config_file, cfg.TEST.WEIGHT, overrides)
    with Path(cfg.TEST.WEIGHT).open("rb") as file:
        weight = hashlib.file_digest(file, "sha256").hexdigest()
    test = (cfg.TEST.FEATURE, cfg.TEST.NECK_FEAT, cfg.TEST.FEAT_NORM, cfg.TEST.FLIP, cfg.TEST.PRECISION)
    return embedder, f"{weight} {cfg.MODEL.dump()} {cfg.INPUT.dump()} {test}"


def run(config_file: str, overrides: Sequence[str], images: Path, output: Path) -> None:
    """Extract, and log the result."""
    setup_console()
    embedder, source = open_embedder(config_file, overrides)
    features, _ = extract(embedder, images, output, source)
    LOGGER.info("%s: %d features of %d numbers; listing.csv names their images", output, *features.shape)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m processor.extract", __doc__, EXAMPLES)
    parser.add_argument("--config_file", metavar="FILE", required=True, help="YAML file of the training")
    parser.add_argument(
        "--images", metavar="DIR", type=Path, required=True, help="folder of images, searched recursively"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder that receives the features")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="configuration keys that override the file: TEST.WEIGHT PATH"
    )
    arguments = parser.parse_intermixed_args(argv)
    return run_script(partial(run, arguments.config_file, arguments.opts, arguments.images, arguments.output))


if __name__ == "__main__":
    sys.exit(main())

"""Hands drawn by this project: a whole re-identification data set without a download."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.bases import some
from datasets.hands.folder import HandFolder
from datasets.parsing.folders import FolderContent, scan
from datasets.parsing.keypoints import DEFAULT_FILE, KeyPoints, write_keypoints
from datasets.parsing.tables import csv_text
from datasets.synthetic_hand.anatomy import ASPECTS, Hand, make_hand, make_pose
from datasets.synthetic_hand.captions import drawn_attributes
from datasets.synthetic_hand.drawing import draw_hand
from utils.compute.cores import usable_cores
from utils.compute.memory import keep_freed_memory
from utils.console.interrupt import ignore_signals
from utils.errors import ReIDError

VERSION = 2
"""Raised whenever the drawing changes, so that pictures of two generators never mix."""

FIRST_TEST_IDENTITY = 10_000
"""Test hands are numbered from here, so that their look does not depend on the number of training hands."""

_RUNS = 3
"""zlib's Z_RLE. Noise hardly repeats: without the search the files are smaller, too."""

_QUERY_SHARE = 0.4
_MOST_PROCESSES = 61  # of a pool on Windows
_FEWEST_FOR_PROCESSES = 100  # pictures; fewer are drawn sooner than processes start


class SyntheticHand(HandFolder):
    """Drawn hands that differ in shape, skin, creases, veins, nails and marks.

    Reference: none; this project's own drawing (``datasets/synthetic_hand/drawing.py``), free like the code.

    Each identity is one hand, left or right, seen from both sides in turn. Its pictures differ in the spread
    and bend of the fingers, place, light, table, focus and noise, all independent of the identity; the light changes
    the colour of the skin.

    ======  ==========  =================================
    split   identities  images (default settings)
    ======  ==========  =================================
    train   64          640
    query   32          128 (4 of each test identity)
    gallery the same    192 (the other 6)
    ======  ==========  =================================

    The pictures are drawn once (10 to 15 s on two cores), the same on every machine, into::

        <root>/synthetic_hand/v2_train64_test32_images10_size128_seed0/
            train/<identity>/<image>.png
            test/query/<identity>/<image>.png
            test/gallery/<identity>/<image>.png
            views.csv                              path,view
            keypoints.csv                          21 points of each hand, true ones

    which :class:`HandFolder` reads. Views are those of 11k Hands: 0 dorsal right,
    1 dorsal left, 2 palmar right, 3 palmar left.

    Attributes of each picture are visible ones: ``side``, ``hand``, ``skin``, ``build``, ``fingers``,
    ``pose``, ``marks``, ``table``, ``veins`` and ``nails`` of a back, ``lines`` of a palm. Sentences are made of them
    (:mod:`datasets.fields.captions`).

    Protocol: every query is searched in the whole gallery, of both aspects; there are no cameras, and
    nothing is ignored.

    Args:
        root: folder in which ``synthetic_hand/`` lies or is made.
        train_identities: hands to train on.
        test_identities: other hands, for query and gallery.
        images_per_identity: pictures of each hand, at least 2; of a test hand 40 % are queries.
        size: side of the square pictures in pixels, at least 32.
        seed: another seed gives other hands.
        require_train: whether ``train_identities`` must be at least 2.

    Raises:
        ReIDError: a number is out of range, ``root`` holds photographs, or pictures were removed from the folder or
            added to it.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        train_identities: int = 64,
        test_identities: int = 32,
        images_per_identity: int = 10,
        size: int = 128,
        seed: int = 0,
        require_train: bool = True,
    ) -> None:
        _check("train_identities", train_identities, 2 if require_train else 0, FIRST_TEST_IDENTITY)
        _check("test_identities", test_identities, 1, FIRST_TEST_IDENTITY)
        _check("images_per_identity", images_per_identity, 2, 1000)
        _check("size", size, 32, 2048)
        _check("seed", seed, 0, 2**32 - 1)
        _refuse_photographs(Path(root))
        counts = f"train{train_identities}_test{test_identities}_images{images_per_identity}"
        name = f"v{VERSION}_{counts}_size{size}_seed{seed}"
        folder = Path(root) / "synthetic_hand" / name
        jobs = _plan(train_identities, test_identities, images_per_identity)
        if not folder.is_dir():
            _draw_all(folder, jobs, size, seed)
        found = sum(1 for _ in folder.rglob("*.png"))
        drawn = sum(len(job.images) for job in jobs)
        if found != drawn:
            raise ReIDError(
                f"{folder}: {found} pictures, but {drawn} were drawn. Delete the folder; it will be drawn again."
            )
        if not (folder / DEFAULT_FILE).is_file():
            write_keypoints(folder / DEFAULT_FILE, true_keypoints(jobs, size, seed))
        super().__init__(folder, require_train=require_train)
        self.name = "synthetic_hand"
        self.attributes = dict(_attributes(folder, jobs, seed))


class _Job(NamedTuple):
    """The pictures of one identity in one split: numbers ``images`` go to ``<split>/<identity>/``."""

    split: str
    identity: int
    images: range

    def path(self, image: int) -> str:
        """Of picture number ``image``, below the data set's folder."""
        return f"{self.split}/{self.identity:05d}/{image:03d}.png"


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ReIDError(f"synthetic_hand: {name} is {value}; it must lie in {low}..{high}.")


def _refuse_photographs(root: Path) -> None:
    """Refuse a folder with photographs: DATASETS.NAMES was probably not set."""
    content = scan(root) if root.is_dir() else FolderContent([], [], [])
    found = [
        *(f"{name}/" for name in ("train", "test", "query", "gallery") if name in content.folders),
        *content.images,
    ]
    if found:
        raise ReIDError(
            f"DATASETS.NAMES = synthetic_hand draws its own hands, and ROOT_DIR = {root} holds other photographs "
            f"({some(found, 2)}). Set DATASETS.NAMES to hand to use them, or choose another ROOT_DIR."
        )


def _plan(train_identities: int, test_identities: int, images: int) -> list[_Job]:
    queries = max(1, round(_QUERY_SHARE * images))
    jobs = [_Job("train", identity, range(images)) for identity in range(train_identities)]
    for identity in range(FIRST_TEST_IDENTITY, FIRST_TEST_IDENTITY + test_identities):
        jobs.append(_Job("test/query", identity, range(queries)))
        jobs.append(_Job("test/gallery", identity, range(queries, images)))
    return jobs


def _draw_all(folder: Path, jobs: list[_Job], size: int, seed: int) -> None:
    """Draw every job beside ``folder`` and move the finished set there in one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".drawing-"))
    try:
        unfinished = scratch / folder.name
        unfinished.mkdir()
        rows = sorted(_run(partial(_draw_job, unfinished, size, seed), jobs))
        (unfinished / "views.csv").write_text(csv_text(("path", "view"), rows), encoding="utf-8", newline="")
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process finished the same set first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(draw: partial[list[tuple[str, int]]], jobs: list[_Job]) -> Iterator[tuple[str, int]]:
    """All rows of ``draw`` over ``jobs``, in order, from as many processes as there are cores."""
    images = sum(len(job.images) for job in jobs)
    with ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=images, desc="Drawing hands", unit="image", disable=None))
        results = map(draw, jobs)
        if images >= _FEWEST_FOR_PROCESSES:
            pool = ProcessPoolExecutor(min(usable_cores(), _MOST_PROCESSES), initializer=_start_worker)
            stack.callback(pool.shutdown, cancel_futures=True)
            results = pool.map(draw, jobs)
        for rows in results:
            progress.update(len(rows))
            yield from rows


def _start_worker() -> None:
    """In a process that draws: leave signals to the main one, and keep the memory of arrays that were freed."""
    ignore_signals()
    keep_freed_memory()


def _rng(seed: int, identity: int, part: int) -> np.random.Generator:
    """The random stream of one part of one identity: 0 is the hand itself, 1 + i its picture i."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, identity, part])))


def identity_hand(seed: int, identity: int) -> Hand:
    """The hand with number ``identity`` in the set drawn from ``seed``."""
    return make_hand(_rng(seed, identity, 0))


def true_keypoints(jobs: Iterable[_Job], size: int, seed: int) -> dict[str, KeyPoints]:
    """The key points of all pictures by their paths, without drawing them."""
    found = {}
    for job in jobs:
        hand = identity_hand(seed, job.identity)
        side = "right" if hand.right else "left"
        for image in job.images:
            # The pose is the first that a picture draws of its random stream.
            pose = make_pose(_rng(seed, job.identity, 1 + image), hand, ASPECTS[image % 2])
            points = pose.key_points(hand, size)
            found[job.path(image)] = KeyPoints(points, np.ones(len(points)), 1.0, side, 1, (size, size))
    return found


def _attributes(folder: Path, jobs: list[_Job], seed: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Path and attributes of each picture, see :mod:`datasets.synthetic_hand.captions`."""
    for job in jobs:
        hand = identity_hand(seed, job.identity)
        for image in job.images:
            yield (
                f"{folder}/{job.path(image)}",
                drawn_attributes(hand, ASPECTS[image % 2], _rng(seed, job.identity, 1 + image)),
            )


def _draw_job(folder: Path, size: int, seed: int, job: _Job) -> list[tuple[str, int]]:
    """Draw and save one identity's pictures; rows (path, view) for views.csv."""
    hand = identity_hand(seed, job.identity)
    (folder / job.path(0)).parent.mkdir(parents=True)
    rows = []
    for image in job.images:
        aspect = image % 2
        pixels = draw_hand(hand, ASPECTS[aspect], _rng(seed, job.identity, 1 + image), size)
        path = job.path(image)
        Image.fromarray(pixels).save(folder / path, compress_level=1, compress_type=_RUNS)
        rows.append((path, 2 * aspect + (not hand.right)))
    return rows

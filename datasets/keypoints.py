"""Find the hand in each photograph: its 21 key points, whether it is left or right, and its size.

OUTPUT receives a row for each image (docs/datasets.md, Key points), without points where no hand was found.
Rows that are there already stay, unless the image is newer: an interrupted search resumes when the command is repeated.
The contact sheet shows the points on some of the images. Photographs of hands and their key points are biometric data.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from configs import load_config
from datasets import make_dataset
from datasets.bases import some
from datasets.hands.detector import FoundHand, HandDetector
from datasets.parsing.folders import images_below
from datasets.parsing.keypoints import (
    DEFAULT_FILE,
    HAND,
    KeyPoints,
    read_keypoints,
    relative_name,
    write_keypoints,
)
from datasets.reading.images import reading_of
from utils.compute.cores import usable_cores
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.interrupt import InterruptedRunError, ignore_signals, interrupt_requested
from utils.console.logger import LOGGER, setup_console
from utils.console.progress import image_bar
from utils.errors import ReIDError
from utils.images import Reading, read_image
from utils.plots.sheets import QUERY, RIGHT, WRONG, Shown, contact_sheet, evenly, save_sheet
from utils.words import number_of

EXAMPLES = (
    "python -m datasets.keypoints --root data/hands --output data/hands/keypoints.csv",
    "python -m datasets.keypoints --config_file configs/hand/hand_11k.yml",
)
SAVE_SECONDS = 30
"""Seconds between two writes of OUTPUT."""
SHEET_ROWS, SHEET_COLUMNS = 6, 8

UPRIGHT = Reading(upright=True)

Detector = Callable[[Image.Image], list[FoundHand]]
"""From an RGB picture to the hands in it, the most important first."""


class Work(NamedTuple):
    """What is looked at: paths of images by their names in the file, and how they are read."""

    paths: Mapping[str, str]
    reading: Reading = UPRIGHT


def find_keypoints(
    work: Work, output: Path, make_detector: Callable[[], Detector] = HandDetector, processes: int = 1
) -> dict[str, KeyPoints]:
    """The key points of all images of ``work``, by name; ``output`` keeps them on the way.

    Args:
        work: the images.
        output: CSV file; what it holds of these images already is not looked for again.
        make_detector: gives each process its detector.
        processes: that look at images.

    Raises:
        ReIDError: ``output`` holds something else, or cannot be written to.
        InterruptedRunError: stopped by a signal; ``output`` holds what was found until then.
    """
    known = _known(work, output)
    missing = [name for name in work.paths if name not in known]
    if known:
        LOGGER.info("%s holds %s already", output, number_of(len(known), "image"))
    unreadable: dict[str, str] = {}
    saved = time.monotonic()
    with image_bar(len(work.paths), "finding hands", len(known)) as bar:
        for name, result in _results(work, missing, make_detector, processes):
            bar.update(1)
            if isinstance(result, str):
                unreadable[name] = result
            else:
                known[name] = result
            if interrupt_requested():
                break
            if time.monotonic() > saved + SAVE_SECONDS:
                _save(work, known, output)
                saved = time.monotonic()
    found = _save(work, known, output)
    if len(found) + len(unreadable) < len(work.paths):
        raise InterruptedRunError("finding key points", saved=True)
    if unreadable:
        listed = some([f"{name} ({reason})" for name, reason in unreadable.items()])
        LOGGER.warning("%s cannot be read and have no row: %s", number_of(len(unreadable), "file"), listed)
    return found


def _save(work: Work, known: Mapping[str, KeyPoints], output: Path) -> dict[str, KeyPoints]:
    """Write what is known, in the order of the images."""
    found = {name: known[name] for name in work.paths if name in known}
    if found:
        write_keypoints(output, found)
    return found


def _known(work: Work, output: Path) -> dict[str, KeyPoints]:
    """Rows of ``output`` of images that have not changed since."""
    if not output.exists():
        return {}
    kept = read_keypoints(output)
    if kept.count != HAND:
        raise ReIDError(f"{output}: has {kept.count} points an image, not {HAND} of a hand. Name another --output.")
    written = output.stat().st_mtime
    return {
        name: kept.images[name]
        for name, path in work.paths.items()
        if name in kept.images and Path(path).stat().st_mtime <= written
    }


def _results(
    work: Work, names: Sequence[str], make_detector: Callable[[], Detector], processes: int
) -> Iterator[tuple[str, KeyPoints | str]]:
    look = partial(_look, work.reading, make_detector)
    images = [(name, work.paths[name]) for name in names]
    if processes < 2 or len(names) < 2 * processes:
        yield from map(look, images)
        return
    # spawn: a forked copy of a process with the threads of a network may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=ignore_signals) as pool:
        try:
            yield from pool.map(look, images, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)


@cache
def _detector(make_detector: Callable[[], Detector]) -> Detector:
    """One for each process."""
    return make_detector()


def _look(
    reading: Reading, make_detector: Callable[[], Detector], image: tuple[str, str]
) -> tuple[str, KeyPoints | str]:
    """The name of an image and its key points, or why it cannot be read."""
    name, path = image
    detect = _detector(make_detector)
    try:
        picture = read_image(path, reading)
    except ReIDError as error:
        return name, str(error)
    hands = detect(picture)
    if not hands:
        nothing = np.full((HAND, 2), math.nan)
        return name, KeyPoints(nothing, np.zeros(HAND), 0.0, "", 0, picture.size)
    first = hands[0]
    return name, KeyPoints(first.points, np.ones(HAND), first.score, first.hand, len(hands), picture.size)


def report(found: Mapping[str, KeyPoints], output: Path) -> None:
    """Log how many hands were found, and images with none or several."""
    hands = [points for points in found.values() if points.found]
    sides = " and ".join(f"{sum(p.hand == side for p in hands)} {side}" for side in ("left", "right"))
    LOGGER.info("%s: hands in %d of %s, %s", output, len(hands), number_of(len(found), "image"), sides)
    for what, names in (
        ("no hand", [name for name, points in found.items() if not points.found]),
        ("several hands, of which the largest is kept", [name for name, points in found.items() if points.hands > 1]),
    ):
        if names:
            LOGGER.warning("%s in %s: %s", what, number_of(len(names), "image"), some(names))
    if hands:
        sizes = np.percentile([points.share for points in hands], [5, 50, 95])
        LOGGER.info("the hand takes %.0f / %.0f / %.0f %% of a picture (5th, 50th, 95th percentile)", *100 * sizes)


def write_sheet(work: Work, found: Mapping[str, KeyPoints], path: Path) -> None:
    """A contact sheet with the points drawn: first images without a hand and with several, then others, evenly."""
    odd = [name for name, points in found.items() if points.hands != 1][: SHEET_COLUMNS * SHEET_ROWS // 3]
    plain = [name for name, points in found.items() if points.hands == 1]
    places = evenly(len(plain), SHEET_COLUMNS * SHEET_ROWS - len(odd))
    shown = []
    for name in (*odd, *(plain[i] for i in places)):
        points = found[name]
        said = f"{points.hand} {points.score:.2f}, {100 * points.share:.0f} %" if points.found else "no hand"
        colour = WRONG if not points.found else QUERY if points.hands > 1 else RIGHT
        caption = f"{'/'.join(Path(name).parts[-2:])}\n{said}{f', {points.hands} hands' if points.hands > 1 else ''}"
        shown.append(Shown(work.paths[name], caption, colour, points.strokes, dashed=not points.found))
    rows = [shown[i : i + SHEET_COLUMNS] for i in range(0, len(shown), SHEET_COLUMNS)]
    counts = f"{len(shown)} of {len(found)} images; {sum(not p.found for p in found.values())} without a hand"
    title = f"Key points on {counts}; below: side, score, share of the picture"
    sheet = contact_sheet(rows, title, (176, 176), work.reading)
    save_sheet(sheet, path)
    LOGGER.info("contact sheet: %s", path)


def _work(arguments: argparse.Namespace) -> tuple[Work, Path, Path | None]:
    """The images that ``--config_file`` or ``--root`` names, their folder, and the file of the contact sheet."""
    if arguments.config_file:
        # Points are those of the upright picture: without alignment, which needs them, and mirroring.
        cfg, _ = load_config(arguments.config_file, [*arguments.opts, "INPUT.ALIGN", "none", "INPUT.MIRROR", "none"])
        dataset = make_dataset(cfg, require_train=False)
        root = Path(dataset.root)
        paths = [record.path for record in (*dataset.train, *dataset.val, *dataset.test_images)]
    else:
        cfg, _ = load_config(None, arguments.opts)
        root = Path(arguments.root)
        if not root.is_dir():
            raise ReIDError(f"--root {root}: no such folder.")
        paths = [f"{root}/{name}" for name in images_below(root)[0]]
    if not paths:
        raise ReIDError(f"{root}: no images found.")
    folder = Path(cfg.OUTPUT_DIR) if arguments.config_file else Path("output/keypoints")
    sheet = arguments.sheet or (folder / "keypoints_sheet.png" if cfg.TEST.PICTURES else None)
    work = Work({relative_name(path, root): path for path in paths}, replace(reading_of(cfg), upright=True))
    return work, root, sheet


def run(arguments: argparse.Namespace) -> None:
    """Find, write and report."""
    setup_console()
    if arguments.processes < 1:
        raise ReIDError(f"--processes {arguments.processes}: expected at least 1.")
    work, root, sheet = _work(arguments)
    output = arguments.output or root / DEFAULT_FILE
    if output.suffix.lower() != ".csv":
        raise ReIDError(f"--output {output}: expected a name that ends in .csv.")
    found = find_keypoints(work, output, processes=arguments.processes)
    report(found, output)
    if sheet:
        write_sheet(work, found, sheet)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m datasets.keypoints", __doc__, EXAMPLES)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config_file", metavar="FILE", help="YAML file that names the data set")
    source.add_argument("--root", metavar="DIR", help="folder of images, searched recursively")
    add = parser.add_argument
    add("--output", metavar="FILE", type=Path, help=f"CSV file; default: {DEFAULT_FILE} in the data set's folder")
    add("--sheet", metavar="FILE", type=Path, help="contact sheet; default: keypoints_sheet.png in OUTPUT_DIR")
    add("--processes", metavar="N", type=int, default=usable_cores(), help="number of processes (default: %(default)s)")
    add("opts", nargs="*", metavar="KEY VALUE", help="configuration keys that override the file")
    return run_script(partial(run, parser.parse_intermixed_args(argv)))


if __name__ == "__main__":
    sys.exit(main())

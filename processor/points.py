"""Chart the points of the skin that agree between two photographs.

Both images stand side by side. Equal numbers mark matched places; at most twelve points are numbered, well spread, and
the title has the count of all. The points agree with one rotation, scale and translation; no network and no training is
involved.

With --gallery a second row shows two different people of that folder for comparison: of 100 random pairs the one with
the most agreeing points. How many points agree by chance depends on the kind of image, so compare images of one kind.

A count is not a likelihood ratio. "Too few to decide" is a result, not an exclusion: blur, other light, a bent finger
or another part of the hand leave few points between images of one person. Crop or mask the background; the same table
under two hands matches as well as skin does.

The chart shows photographs of hands, which are biometric data: protect it accordingly.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from processor.extract import Listed, list_folder
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_console
from utils.console.progress import image_bar
from utils.console.terminal import show
from utils.errors import ReIDError
from utils.files.text_files import printable
from utils.images import Reading, read_image
from utils.plots.points import Compared, in_words, points_chart
from utils.plots.sheets import save_sheet
from utils.retrieval.points import Agreement, Points, agreeing_points, find_points, require_opencv

EXAMPLES = (
    "python -m processor.points data/hands/test/query/ann/1.jpg data/hands/test/gallery/ann/2.jpg "
    "--gallery data/hands/test/gallery --output chart.png",
)
PAIRS = 100
"""Pairs of different people among which the contrast is chosen."""


def compare(
    files: tuple[Path, Path], reading: Reading, limits: dict[str, float], masks: Sequence[Path | None] = (None, None)
) -> tuple[Compared, tuple[Points, Points]]:
    """The agreeing points of two files, and all points of each.

    Raises:
        ReIDError: a file cannot be read, or a mask does not fit its image.
    """
    pictures = [read_image(file, reading) for file in files]
    points = tuple(
        find_points(picture, None if mask is None else _mask(mask, picture))
        for picture, mask in zip(pictures, masks, strict=True)
    )
    agreement = agreeing_points(*points, **limits)
    captions = tuple(
        f"{printable('/'.join(file.parts[-2:]))}, {len(found.places)} points"
        for file, found in zip(files, points, strict=True)
    )
    return Compared(*pictures, _title(agreement), captions, agreement), points


def _mask(file: Path, picture: Image.Image) -> np.ndarray:
    mask = read_image(file).convert("L")
    if mask.size != picture.size:
        raise ReIDError(f"{file}: {mask.size} pixels, its image {picture.size}. Give a mask of the image's size.")
    return np.asarray(mask) > 127


def _title(agreement: Agreement) -> str:
    moved = f"; rotated by {agreement.turn:.0f} degrees, scale {agreement.scale:.2f}" if agreement.count else ""
    return in_words(agreement.count) + moved


def contrast(folder: Path, reading: Reading, limits: dict[str, float], seed: int = 0) -> Compared:
    """Of :data:`PAIRS` drawn pairs of different people in ``folder``, the one with the most agreeing points.

    Raises:
        ReIDError: there are not two people.
    """
    pairs = draw_pairs(list_folder(folder), seed)
    if not pairs:
        raise ReIDError(f"--gallery {folder}: it shows one person; images of two people are needed for comparison.")
    known: dict[str, Points] = {}
    counts = []
    with image_bar(len(pairs), "comparing different people") as bar:
        for pair in pairs:
            for image in pair:
                if image.name not in known:
                    known[image.name] = find_points(read_image(folder / image.name, reading))
            counts.append(agreeing_points(*(known[image.name] for image in pair), **limits).count)
            bar.update()
    best = int(np.argmax(counts))
    found, _ = compare(tuple(folder / image.name for image in pairs[best]), reading, limits)
    spread = f"the most of {len(pairs)} pairs with a median of {np.median(counts):.0f}"
    return found._replace(title=f"for comparison, two different people: {in_words(counts[best])}, {spread}")


def draw_pairs(images: Sequence[Listed], seed: int) -> list[tuple[Listed, Listed]]:
    """Up to :data:`PAIRS` different pairs of images of different people."""
    drawn, generator = {}, random.Random(seed)
    if len({image.identity for image in images}) < 2:
        return []
    for _ in range(20 * PAIRS):  # small folders have fewer pairs
        one, other = sorted(generator.sample(images, 2))
        if one.identity != other.identity:
            drawn[one, other] = None
        if len(drawn) == PAIRS:
            break
    return list(drawn)


def run(arguments: argparse.Namespace) -> None:
    """Compare, draw, write."""
    setup_console()
    require_opencv("processor.points")
    if arguments.scale < 1:
        raise ReIDError(f"--scale {arguments.scale}: expected at least 1, the largest enlargement.")
    if arguments.output.suffix.lower() != ".png":
        raise ReIDError(f"--output {arguments.output}: the chart is a PNG file; the name must end in .png.")
    reading, limits = Reading(upright=arguments.exif), {"turn": arguments.turn, "scale": arguments.scale}
    first, points = compare((arguments.a, arguments.b), reading, limits, (arguments.mask_a, arguments.mask_b))
    for file, found in zip((arguments.a, arguments.b), points, strict=True):
        if not len(found.places):
            LOGGER.warning("%s: no points: the image is too dark, too blurred or uniform", file)
    rows = [first] if arguments.gallery is None else [first, contrast(arguments.gallery, reading, limits)]
    chart = points_chart(rows)
    save_sheet(chart, arguments.output)
    for row in rows:
        show(row.title)
    LOGGER.info("%s shows photographs of hands, which are biometric data: protect it accordingly", arguments.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m processor.points", __doc__, EXAMPLES)
    add = parser.add_argument
    add("a", metavar="A", type=Path, help="first image")
    add("b", metavar="B", type=Path, help="second image")
    add("--output", metavar="FILE", type=Path, required=True, help="the chart, a PNG file")
    add("--gallery", metavar="DIR", type=Path, help="folder of other people for comparison, one folder a person")
    add("--mask-a", metavar="FILE", type=Path, help="image of the size of A, white where points may lie")
    add("--mask-b", metavar="FILE", type=Path, help="likewise for B")
    add("--turn", metavar="DEGREES", type=float, default=40, help="largest turn between the images (default: 40)")
    add("--scale", metavar="FACTOR", type=float, default=1.6, help="largest enlargement (default: 1.6)")
    add("--exif", action="store_true", help="turn photographs as their EXIF orientation says")
    return run_script(partial(run, parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())

"""Doubtful photographs and labels, found by key points: wrong hand, no hand, two hands, upside down, cut off, small."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.bases import ReIDDataset, some
from datasets.parsing.keypoints import HAND, KeyPointFile, KeyPoints
from datasets.reading.alignment import downwards
from utils.plots.sheets import WRONG, Shown, contact_sheet
from utils.words import number_of

UPSIDE_DOWN = 135
"""Degrees from upright from which on a hand is called upside down."""
BORDER = 0.005
"""Share of the picture's longer side within which a point is at its border."""
SMALL = 0.1
"""Share of the picture below which a hand is called small."""
COLUMNS, MOST = 8, 48
"""Of the sheet of suspects."""

OTHER_HAND = "the other hand than labelled"
DOUBTS = (OTHER_HAND, "no hand", "several hands", "upside down", "cut by the border", "smaller than a tenth")
"""In the order in which they are reported and shown."""


def doubts_of(found: KeyPoints, labelled: str) -> list[str]:
    """What is odd about a photograph of a hand, of :data:`DOUBTS`; ``labelled`` is left, right or empty."""
    if not found.found:
        return ["no hand"]
    doubts = [OTHER_HAND] if labelled and found.hand and labelled != found.hand else []
    doubts += ["several hands"] if found.hands > 1 else []
    doubts += ["upside down"] if abs(downwards(found.points)) > UPSIDE_DOWN else []
    if found.size is not None:
        margin = BORDER * max(found.size)
        inside = (found.points > margin) & (found.points < np.array(found.size) - margin)
        doubts += ["cut by the border"] if not inside[np.isfinite(found.points)].all() else []
        doubts += ["smaller than a tenth"] if found.share < SMALL else []
    return doubts


def _labelled(dataset: ReIDDataset, path: str) -> str:
    return dataset.attributes.get(path, {}).get("hand", "")


def suspects(dataset: ReIDDataset, known: KeyPointFile) -> dict[str, dict[str, KeyPoints]]:
    """Images by doubt and path, in the order of :data:`DOUBTS`; of points of people there is none."""
    found: dict[str, dict[str, KeyPoints]] = defaultdict(dict)
    for path, points in known.images.items() if known.count == HAND else ():
        for doubt in doubts_of(points, _labelled(dataset, path)):
            found[doubt][path] = points
    return {doubt: found[doubt] for doubt in DOUBTS if doubt in found}


def report_lines(dataset: ReIDDataset, known: KeyPointFile, found: Mapping[str, Mapping[str, KeyPoints]]) -> list[str]:
    """A line for each doubt, with its images, by their paths below the data set's folder."""
    count = len(known.images)
    lines = []
    for doubt, images in found.items():
        names = [path.removeprefix(f"{dataset.root}/") for path in images]
        lines.append(f"{doubt}: {number_of(len(images), 'image')} of {count}: {some(names)}")
    records = {record.path for record in (*dataset.train, *dataset.val, *dataset.test_images)}
    if len(records) > count:
        lines.append(f"{number_of(len(records) - count, 'image is', 'images are')} not in the file of key points")
    return lines


def suspect_sheet(dataset: ReIDDataset, found: Mapping[str, Mapping[str, KeyPoints]]) -> Image.Image:
    """The suspects with their points, those of the first doubts first; an image has all its doubts below it."""
    doubts: dict[str, list[str]] = defaultdict(list)
    points: dict[str, KeyPoints] = {}
    for doubt, images in found.items():
        for image in images:
            doubts[image].append(doubt)
        points |= images
    shown = [
        Shown(
            image,
            f"{'/'.join(Path(image).parts[-2:])}\n{_labelled(dataset, image) or '-'}: {', '.join(doubts[image])}",
            WRONG,
            points[image].strokes,
        )
        for image in list(doubts)[:MOST]
    ]
    rows: list[Sequence[Shown]] = [shown[i : i + COLUMNS] for i in range(0, len(shown), COLUMNS)]
    reading = replace(dataset.reading, upright=True, boxes={}, mirrored=frozenset(), windows={})
    count = f"{MOST} of {len(doubts)}" if len(doubts) > MOST else str(len(doubts))
    title = f"{dataset.name}: {count} images with doubtful labels, poses or key points"
    return contact_sheet(rows, title, (176, 176), reading)

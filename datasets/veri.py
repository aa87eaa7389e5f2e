"""VeRi-776: vehicles under twenty cameras, with viewpoint labels."""

from __future__ import annotations

import re
from pathlib import Path

from datasets.parsing.published import NamedPhotos, Size, Splits
from utils.files.text_files import read_text

KEYPOINT_FILES = ("keypoint_train.txt", "keypoint_test.txt")
VIEWS = ("front", "rear", "left", "left front", "left rear", "right", "right front", "right rear")
"""Meaning of the viewpoint labels 0 to 7."""


class VeRi(NamedPhotos):
    """VeRi-776.

    Reference: Liu et al., "Large-scale Vehicle Re-identification in Urban Surveillance Videos", ICME 2016.
    Page: https://vehiclereid.github.io/VeRi/. Terms: research only, on request to the authors.
    Viewpoints: Wang et al., "Orientation Invariant Feature Embedding and Spatial Temporal Regularization for
    Vehicle Re-identification", ICCV 2017, https://github.com/Zhongdao/VehicleReIDKeyPointData.

    ============ ========== ======
    split        identities images
    ============ ========== ======
    train        576        37,778
    query        200        1,678
    gallery      200        11,579
    ============ ========== ======

    20 cameras in all.

    ::

        VeRi/
            image_train/0001_c001_00016450_0.jpg   identity 1, camera 1, time, number
            image_test/
            image_query/
            keypoint_train.txt  keypoint_test.txt   optional, here or one folder above

    A line of the keypoint files is an image path, 20 pairs of coordinates and a viewpoint label
    (:data:`VIEWS`).

    Protocol: image to image; gallery images of the query's vehicle under the query's camera are ignored. With
    the keypoint files, images without a viewpoint label are left out of all splits, as in the published
    CLIP-ReID (reported for the official files: 63 train, 1 query, 1 gallery image). Without them every view
    is 0, all images stay, and a note says so.
    """

    prompt = "A photo of a {} vehicle."
    title = "VeRi-776"
    source = (
        "Liu et al., Large-scale Vehicle Re-identification in Urban Surveillance Videos, ICME 2016, "
        "https://vehiclereid.github.io/VeRi/ (on request to the authors, for research)."
    )
    folders = ("VeRi", "veri", "VeRi-776", "VeRi_with_plate", "veri776", "VeRi776")
    marker = "image_query"
    split_folders = ("image_train", "image_query", "image_test")
    grammar = re.compile(r"(?P<identity>-1|\d{4})_c(?P<camera>\d{3})_\d+_\d+\.\w+")
    example = "0001_c001_00016450_0.jpg"
    cameras = 20
    views = len(VIEWS)
    sizes = (Size(576, 37_778), Size(200, 1_678), Size(200, 11_579))

    @classmethod
    def read_splits(cls, folder: Path, require_train: bool, notes: list[str]) -> Splits:
        """Photos of the three folders with their viewpoints."""
        splits = super().read_splits(folder, require_train, notes)
        views = _read_views(folder, notes)
        if not views:
            return splits
        seen = {
            split: [photo._replace(view=views[name]) for photo in photos if (name := Path(photo.path).name) in views]
            for split, photos in splits.items()
        }
        lost = {split: len(photos) - len(seen[split]) for split, photos in splits.items()}
        if any(lost.values()):
            listed = ", ".join(f"{split} {count}" for split, count in lost.items())
            notes.append(f"{cls.title}: images without a viewpoint label were left out: {listed}")
        return seen


def _read_views(folder: Path, notes: list[str]) -> dict[str, int]:
    """Viewpoint by file name; empty if a keypoint file is absent. Labels of the train file take precedence."""
    paths = [_beside_or_above(folder, name) for name in KEYPOINT_FILES]
    absent = [name for name, path in zip(KEYPOINT_FILES, paths, strict=True) if path is None]
    if absent:
        notes.append(
            f"no {' and no '.join(absent)} in {folder} or above: every view is 0. For viewpoints "
            "(MODEL.SIE_VIEW) put the files of https://github.com/Zhongdao/VehicleReIDKeyPointData there"
        )
        return {}
    views: dict[str, int] = {}
    for path in reversed([path for path in paths if path is not None]):
        lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
        labels = {Path(cells[0]).name: int(cells[-1]) for cells in lines if _is_labelled(cells)}
        bad = sum(not _is_labelled(cells) for cells in lines)
        if bad:
            notes.append(
                f"{path}: {bad} lines are not an image, 40 coordinates and a viewpoint below {len(VIEWS)}, "
                "and were left out"
            )
        views |= labels
    return views


def _is_labelled(cells: list[str]) -> bool:
    return len(cells) == 42 and cells[-1].isdecimal() and len(cells[-1]) < 9 and int(cells[-1]) < len(VIEWS)


def _beside_or_above(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder.parent / name) if path.is_file()), None)

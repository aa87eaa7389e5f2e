"""MSMT17: pedestrians under fifteen cameras, several days and weathers."""

from __future__ import annotations

import re
from pathlib import Path

from datasets.bases import Photo
from datasets.parsing.published import PublishedDataset, Size, Splits, read_list, require_images
from utils.errors import ReIDError

LAYOUTS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
"""Train and test folder of each release; V2 is V1 with blurred faces, lists and names are the same."""

LINE = re.compile(
    r"(?P<file>(?P<folder>\d{1,9})/\d+_\d+_(?P<camera>0[1-9]|1[0-5])_[^\s/\\]+\.\w+)\s+(?P<identity>\d{1,9})"
)
EXAMPLE = "0000/0000_000_01_0303morning_0015_0.jpg 0"


class MSMT17(PublishedDataset):
    """MSMT17, release V1 or V2; the notes say which one was found.

    Reference: Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018.
    Page: http://www.pkuvmc.com/dataset.html. Terms: academic research, on a signed request to the authors.

    ============ ========== ====== =======
    split        identities images cameras
    ============ ========== ====== =======
    train        1,041      32,621 15
    query        3,060      11,659 15
    gallery      3,060      82,161 15
    ============ ========== ====== =======

    ::

        MSMT17/                  V1                          or MSMT17_V2/
            train/0000/0000_000_01_0303morning_0015_0.jpg       mask_train_v2/0000/...
            test/0000/...                                       mask_test_v2/0000/...
            list_train.txt  list_val.txt  list_query.txt  list_gallery.txt

    A list line is the file below that folder, and the identity: ``0000/0000_000_01_0303morning_0015_0.jpg
    0``; the third number is the camera, 1 to 15. Train and test count their people separately from 0, so that
    the same number means two people.

    Protocol: gallery images of the query's person under the query's camera are ignored. Training takes both
    ``list_train.txt`` (30,248 images) and ``list_val.txt`` (2,373), as the published CLIP-ReID does.

    Args:
        root: the set's own folder or the one above it.
        require_train: raise if the train folder is absent; otherwise it may be.

    Raises:
        ReIDError: a folder, a list or a listed image is absent, or no line of a list can be read.
    """

    title = "MSMT17"
    source = (
        "Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-Identification, CVPR 2018, "
        "http://www.pkuvmc.com/dataset.html (on request to the authors, for academic research)."
    )
    folders = ("MSMT17", "MSMT17_V1", "MSMT17_V2", "msmt17", "msmt17/MSMT17_V1", "msmt17/MSMT17_V2")
    marker = "list_query.txt"
    cameras = 15
    sizes = (Size(1_041, 32_621), Size(3_060, 11_659), Size(3_060, 82_161))

    def __init__(self, root: str | Path, *, require_train: bool = True, camera_rule: str = "market") -> None:
        folder = self.locate(root)
        version, train, test = self._layout(folder)
        notes = [f"{self.title} {version} in {folder} (folders {train} and {test})"]
        skip = self.may_skip(folder / train, require_train, notes)
        sources = {
            "train": [] if skip else [(train, "list_train.txt"), (train, "list_val.txt")],
            "query": [(test, "list_query.txt")],
            "gallery": [(test, "list_gallery.txt")],
        }
        splits: Splits = {
            split: [photo for images, name in lists for photo in self._read(folder, images, name, notes)]
            for split, lists in sources.items()
        }
        require_images([photo for photos in splits.values() for photo in photos], self.hint())
        notes += self.count_notes(splits, self.sizes)
        rest = {"camera_rule": camera_rule, "require_train": require_train, "notes": notes}
        super().__init__(splits, folder, name=f"{self.title} {version}", **rest)

    @classmethod
    def _layout(cls, folder: Path) -> tuple[str, str, str]:
        """Release, train folder and test folder; V1 where both releases share a folder."""
        for version, (train, test) in LAYOUTS.items():
            if (folder / test).is_dir():
                return version, train, test
        expected = " nor ".join(f"{test} ({version})" for version, (_, test) in LAYOUTS.items())
        raise ReIDError(f"{folder}: neither {expected} is there, the copy is incomplete. {cls.hint()}")

    @classmethod
    def _read(cls, folder: Path, images: str, list_name: str, notes: list[str]) -> list[Photo]:
        """Photos of one list. Identities carry the folder's name, since train and test numbers overlap."""
        matches = read_list(folder / list_name, LINE, EXAMPLE, notes, cls.hint())
        wrong = [m for m in matches if int(m["folder"]) != int(m["identity"])]
        if wrong:
            raise ReIDError(
                f"{folder / list_name}: {len(wrong)} lines name another identity than their folder, "
                f"the first is {wrong[0][0]!r}. {cls.hint()}"
            )
        return [
            Photo(str(folder / images / m["file"]), f"{images}/{int(m['identity']):04d}", int(m["camera"]) - 1)
            for m in matches
        ]

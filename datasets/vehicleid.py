"""VehicleID: vehicles from the front or the rear, tested on three sizes with ten random galleries."""

from __future__ import annotations

import re
from pathlib import Path

from datasets.bases import Photo, QueryGallerySplit
from datasets.parsing.published import PublishedDataset, Size, Splits, read_list, require_images
from datasets.parsing.splits import pick, require_run
from utils.errors import require_choice

LINE = re.compile(r"(?P<image>\d+)\s+(?P<identity>\d{1,9})")
EXAMPLE = "0211592 3"

TRAIN = Size(13_164, 113_346)

QUERY_IMAGES = {800: 5_693, 1600: 11_777, 2400: 17_377}
"""Images left for the query once each of the 800, 1600 or 2400 test vehicles gave one to the gallery."""


class VehicleID(PublishedDataset):
    """VehicleID (PKU VehicleID).

    Reference: Liu et al., "Deep Relative Distance Learning: Tell the Difference Between Similar Vehicles",
    CVPR 2016.
    Page: https://www.pkuml.org/resources/pku-vehicleid.html. Terms: research only, on a signed request to the
    authors.

    ============ ========== ======= =======
    split        identities images  cameras
    ============ ========== ======= =======
    train        13,164     113,346 no labels
    test 800     800        6,493
    test 1600    1,600      13,377
    test 2400    2,400      19,777
    ============ ========== ======= =======

    These are the counts of the released lists; the paper itself gives slightly different ones.

    ::

        VehicleID_V1.0/
            image/0211592.jpg
            train_test_split/train_list.txt      a line: image number, vehicle number
            train_test_split/test_list_800.txt   test_list_1600.txt  test_list_2400.txt

    Protocol: of each test vehicle one random image is the gallery, all its others are queries (the reverse of
    the person sets). Results are the mean over ten such draws, ``run`` 0 to 9. A draw depends on ``seed``,
    ``run`` and the test list only, so that it is the same on every machine. Query and gallery together are
    the same images in every run: features need to be computed once. There is no camera rule; the published
    code gives query and gallery different cameras to the same effect.

    Args:
        root: the set's own folder or the one above it.
        test_size: 800, 1600 or 2400 test vehicles.
        run: which draw; the protocol's ten are 0 to 9.
        runs: how many draws to evaluate, from ``run`` on.
        seed: another seed gives ten other draws.
        require_train: raise if the train list is absent; otherwise it may be.

    Raises:
        ReIDError: an unknown size, a negative run, or a list or a listed image is absent.
    """

    prompt = "A photo of a {} vehicle."
    title = "VehicleID"
    source = (
        "Liu et al., Deep Relative Distance Learning, CVPR 2016, "
        "https://www.pkuml.org/resources/pku-vehicleid.html (on request to the authors, for research)."
    )
    folders = ("VehicleID_V1.0", "VehicleID", "vehicleid", "PKU-VehicleID")
    marker = "train_test_split"

    def __init__(
        self,
        root: str | Path,
        *,
        test_size: int = 800,
        run: int = 0,
        runs: int = 1,
        seed: int = 0,
        require_train: bool = True,
    ) -> None:
        require_choice("DATASETS.TEST_SIZE", test_size, QUERY_IMAGES)
        require_run(run)
        folder = self.locate(root)
        notes: list[str] = []
        train_list = "train_list.txt"
        skip = self.may_skip(folder / self.marker / train_list, require_train, notes)
        train = [] if skip else self._read(folder, train_list, notes)
        test = self._read(folder, f"test_list_{test_size}.txt", notes)
        require_images([*train, *test], self.hint())
        (_, query, gallery), *redrawn = (
            QueryGallerySplit(i, *draw(test, seed=seed, run=i)) for i in range(run, run + runs)
        )
        splits: Splits = {"train": train, "query": query, "gallery": gallery}
        sizes = (TRAIN, Size(test_size, QUERY_IMAGES[test_size]), Size(test_size, test_size))
        notes += self.count_notes(splits, sizes)
        super().__init__(
            splits,
            folder,
            name=f"{self.title} {test_size}",
            camera_rule="none",
            require_train=require_train,
            notes=notes,
            run=run,
            redrawn=redrawn,
        )

    @classmethod
    def _read(cls, folder: Path, list_name: str, notes: list[str]) -> list[Photo]:
        """Photos of one list; vehicle numbers are padded so that names sort like numbers."""
        matches = read_list(folder / cls.marker / list_name, LINE, EXAMPLE, notes, cls.hint())
        images = folder / "image"
        return [Photo(str(images / f"{m['image']}.jpg"), f"{int(m['identity']):05d}") for m in matches]


def draw(test: list[Photo], *, seed: int, run: int) -> tuple[list[Photo], list[Photo]]:
    """Query and gallery of one run, sorted: one random image of each identity is the gallery."""
    test = sorted(test, key=lambda photo: (photo.identity, photo.path))
    images_of: dict[str, list[str]] = {}
    for photo in test:
        images_of.setdefault(photo.identity, []).append(photo.path)
    chosen = {pick(paths, seed, "vehicleid", run, identity) for identity, paths in images_of.items()}
    query = [photo for photo in test if photo.path not in chosen]
    return query, [photo for photo in test if photo.path in chosen]

"""What every dataset is: photos with an identity, turned into numbered records and checked before any training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from utils.errors import ReIDError


class Photo(NamedTuple):
    """One image as a dataset's reader finds it on disk.

    ``identity`` is any text; ``camera`` and ``view`` are any integers. They become consecutive numbers in
    :class:`ReIDDataset`.
    """

    path: str
    identity: str
    camera: int = 0
    view: int = 0


class Record(NamedTuple):
    """One image as the rest of the code sees it; every number starts at 0."""

    path: str
    pid: int
    camid: int
    viewid: int


class ReIDDataset:
    """Train, query and gallery records of one dataset.

    Training pids are 0..N-1 in sorted order of the identity names. Query and gallery share a second numbering of
    the same kind, since test people are strangers to the model. Cameras and views seen in training are numbered
    first, in sorted order; those that only the test set has follow.

    Args:
        train, query, gallery: what the reader found. ``train`` may be empty where only a test is wanted.
        name: the dataset as the user knows it, for messages.
        camera_rule: ``"market"`` ignores gallery images of the query's person under the query's camera (the
            Market-1501 protocol); ``"none"`` ignores nothing (hands).

    Raises:
        ReIDError: the splits are empty or no query can be found in the gallery.
    """

    prompt: ClassVar[str] = "A photo of a {} person."
    """Prompt sentence of the paper for this kind of data; ``{}`` stands for the learnable tokens."""

    def __init__(
        self,
        train: Sequence[Photo],
        query: Sequence[Photo],
        gallery: Sequence[Photo],
        *,
        name: str,
        camera_rule: str = "market",
    ) -> None:
        self.name = name
        self.camera_rule = camera_rule
        self.train_identities = sorted({p.identity for p in train})
        self.test_identities = sorted({p.identity for p in (*query, *gallery)})
        cameras = _numbering((p.camera for p in train), (p.camera for p in (*query, *gallery)))
        views = _numbering((p.view for p in train), (p.view for p in (*query, *gallery)))

        def records(photos: Sequence[Photo], identities: list[str]) -> list[Record]:
            pids = {identity: pid for pid, identity in enumerate(identities)}
            return [Record(p.path, pids[p.identity], cameras[p.camera], views[p.view]) for p in photos]

        self.train = records(train, self.train_identities)
        self.query = records(query, self.test_identities)
        self.gallery = records(gallery, self.test_identities)
        self.num_train_pids = len(self.train_identities)
        self.num_train_cams = len({r.camid for r in self.train})
        self.num_train_views = len({r.viewid for r in self.train})
        self.check_test()

    def check_test(self) -> None:
        """Refuse a test set on which nothing can be measured, before hours are spent on training."""
        for split, records in (("query", self.query), ("gallery", self.gallery)):
            if not records:
                raise ReIDError(f"{self.name}: the {split} set is empty; at least one image is needed.")
        if not any(self.findable()):
            rule = " once images of the same camera are ignored" if self.camera_rule == "market" else ""
            raise ReIDError(
                f"{self.name}: no query identity appears in the gallery{rule} (camera rule "
                f"{self.camera_rule!r}). Put other images of the query people into the gallery, or, for data "
                "without cameras, set DATASETS.CAMERA_RULE to 'none'."
            )

    def findable(self) -> list[bool]:
        """For each query, whether the gallery holds a match that the camera rule does not remove."""
        cameras_of: dict[int, set[int]] = {}
        for record in self.gallery:
            cameras_of.setdefault(record.pid, set()).add(record.camid)
        if self.camera_rule == "none":
            return [q.pid in cameras_of for q in self.query]
        return [bool(cameras_of.get(q.pid, set()) - {q.camid}) for q in self.query]


def _numbering(train: Iterable[int], test: Iterable[int]) -> dict[int, int]:
    """Consecutive numbers: the training labels in sorted order, then the labels only the test set has."""
    first = sorted(set(train))
    return {label: i for i, label in enumerate([*first, *sorted(set(test) - set(first))])}


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"})


def list_images(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, sorted by name; hidden files are left out."""
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
    )


def require_folder(path: Path, hint: str) -> Path:
    """``path`` itself if it is a folder; ``hint`` tells the user what belongs there.

    Raises:
        ReIDError: there is no such folder.
    """
    if not path.is_dir():
        raise ReIDError(f"{path}: no such folder. {hint}")
    return path

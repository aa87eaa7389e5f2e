"""What every dataset is: photos with an identity, numbered and checked before any training."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from utils.errors import ReIDError
from utils.images import AS_STORED, Box, Reading

if TYPE_CHECKING:
    from torch import Tensor

Field = Callable[[str, Sequence[object], tuple[int, int]], "Tensor"]
"""From the path of an image, the steps of its transform and the size of the picture in front of them to what a batch
holds of it. Random steps draw as they do for the picture."""

WARNING = "warning: "
"""How notes begin that say that something is probably wrong; the log has them as warnings."""


class UselessDataError(ReIDError):
    """Images that can be read, but of which nothing can be learned or measured."""


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


class Pair(NamedTuple):
    """Two images to compare, by path, and whether they show the same identity."""

    first: str
    second: str
    same: bool


Image = TypeVar("Image", Photo, Record)


class QueryGallerySplit(NamedTuple, Generic[Image]):
    """Query and gallery of one evaluation.

    ``run`` is the number of the random choice that made them; None where the set has one fixed split.
    """

    run: int | None
    query: Sequence[Image]
    gallery: Sequence[Image]

    @property
    def images(self) -> list[Image]:
        """Each once, queries first."""
        return list(dict.fromkeys((*self.query, *self.gallery)))


class ReIDDataset:
    """Train, query and gallery records of one dataset.

    Training pids are 0..N-1 in sorted order of the identity names. Query and gallery share a second numbering
    of the same kind, since test people are unknown to the model. Cameras and views seen in training are
    numbered first, in sorted order; those that only the test set has follow.

    Args:
        train, query, gallery: what the reader found. ``train`` may be empty where only a test is wanted.
        name: name of the dataset for messages.
        camera_rule: ``"market"`` ignores gallery images of the query's person under the query's camera (the
            Market-1501 protocol); ``"none"`` ignores nothing (hands).
        val: images of training people held out of training, for choosing a checkpoint; they carry training
            pids. A person all of whose images are held out is numbered after the training people.
        absent: training images that are known of but not there, where only a test is wanted; they take part
            in the numbering of cameras and views, which SIE models need, and in nothing else.
        require_train: whether training follows; if so an unusable train set is an error.
        notes: for the log: files left out, counts that differ from the published ones.
        run: which random choice ``query`` and ``gallery`` are, where the set has several.
        redrawn: further random choices of query and gallery.

    Attributes:
        trials: what is evaluated: query and gallery, then those of ``redrawn``. They share all numberings.

    Raises:
        UselessDataError: the splits are empty or no query can be found in the gallery.
    """

    prompt: ClassVar[str] = "A photo of a {} person."
    """Prompt sentence of the paper for this kind of data; ``{}`` stands for the learnable tokens."""

    attributes: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    """What is known of an image besides its identity, by path; see :mod:`datasets.hands.attributes`."""

    protocol: str = ""
    """Which comparisons count: ``open``, ``closed``, ``all_pairs``, ``fvc`` or ``pairs``; empty: nothing is declared.

    With ``all_pairs`` and ``fvc`` query and gallery are the same images, in the order in which ``fvc`` takes the first
    of each identity. An image is never to be compared with itself, whatever the protocol.
    """

    pairs: Sequence[Pair] = ()
    """What protocol ``pairs`` compares: queries are the first images, gallery images the second."""

    reading: Reading = AS_STORED
    """How its files become pictures; :func:`datasets.make_dataset` sets it by the configuration."""

    fields: Mapping[str, Field] = MappingProxyType({})
    """What a method needs of each image besides its pixels and numbers, by the names of a batch's fields."""

    train_fields: Mapping[str, Field] = MappingProxyType({})
    """What it needs of augmented training images alone."""

    num_train_sources: int = 0
    """Sources of the training images, where a method reads them; 0 where the data set names none."""

    boxes: Mapping[str, Box] = MappingProxyType({})
    """By path, the part of a picture that is used, where not all of it is."""

    def __init__(
        self,
        train: Sequence[Photo],
        query: Sequence[Photo],
        gallery: Sequence[Photo],
        *,
        name: str,
        camera_rule: str = "market",
        val: Sequence[Photo] = (),
        absent: Sequence[Photo] = (),
        require_train: bool = False,
        notes: Iterable[str] = (),
        run: int | None = None,
        redrawn: Sequence[QueryGallerySplit[Photo]] = (),
    ) -> None:
        self.name = name
        self.camera_rule = camera_rule
        self.require_train = require_train
        self.train_identities = sorted({p.identity for p in train})
        tested = [*query, *gallery, *(photo for trial in redrawn for photo in (*trial.query, *trial.gallery))]
        self.test_identities = sorted({p.identity for p in tested})
        known, others = (*train, *absent), (*val, *tested)
        cameras = _numbering((p.camera for p in known), (p.camera for p in others))
        views = _numbering((p.view for p in known), (p.view for p in others))

        def records(photos: Sequence[Photo], identities: list[str]) -> list[Record]:
            pids = {identity: pid for pid, identity in enumerate(identities)}
            return [Record(p.path, pids[p.identity], cameras[p.camera], views[p.view]) for p in photos]

        self._absent = [Photo("", "", cameras[p.camera], views[p.view]) for p in absent]
        held_out = {p.identity for p in val} - set(self.train_identities)
        self.val_identities = [*self.train_identities, *sorted(held_out)]
        self.train = records(train, self.train_identities)
        self.val = records(val, self.val_identities)
        self.query = records(query, self.test_identities)
        self.gallery = records(gallery, self.test_identities)
        self.trials: list[QueryGallerySplit[Record]] = [
            QueryGallerySplit(run, self.query, self.gallery),
            *(QueryGallerySplit(t.run, *(records(part, self.test_identities) for part in t[1:])) for t in redrawn),
        ]
        self.num_train_pids = len(self.train_identities)
        self.num_train_cams = len({r.camid for r in self.train})
        self.num_train_views = len({r.viewid for r in self.train})
        self.notes = list(notes)
        try:
            if require_train:
                self.check_train()
            self.check_test()
        except UselessDataError as error:
            found = f" Found before: {'; '.join(self.notes)}." if self.notes else ""
            raise UselessDataError(f"{error}{found}") from None
        self.notes += self._unfindable()

    def leave_out(self, paths: Container[str], training: bool = False) -> None:
        """Drop the images in ``paths`` and number the others again: people may vanish with their last image.

        Args:
            paths: of the images.
            training: drop them from the training and validation images alone.

        Raises:
            ReIDError: what is left cannot be trained on or tested.
        """
        stale = self._unfindable()

        def photos(records: Sequence[Record], names: Sequence[str], tested: bool = True) -> list[Photo]:
            left = records if tested and training else [r for r in records if r.path not in paths]
            return [Photo(r.path, names[r.pid], r.camid, r.viewid) for r in left]

        ReIDDataset.__init__(
            self,
            photos(self.train, self.train_identities, tested=False),
            photos(self.query, self.test_identities),
            photos(self.gallery, self.test_identities),
            name=self.name,
            camera_rule=self.camera_rule,
            val=photos(self.val, self.val_identities, tested=False),
            absent=self._absent,
            require_train=self.require_train,
            notes=[note for note in self.notes if note not in stale],
            run=self.trials[0].run,
            redrawn=[
                QueryGallerySplit(t.run, *(photos(part, self.test_identities) for part in t[1:]))
                for t in self.trials[1:]
            ],
        )

    def use_camera_rule(self, rule: str) -> None:
        """Judge the test by another camera rule than the data set's own.

        Raises:
            ReIDError: under it no query can be found.
        """
        stale = self._unfindable()
        self.camera_rule = rule
        self.check_test()
        self.notes = [note for note in self.notes if note not in stale] + self._unfindable()

    @property
    def num_cameras(self) -> int:
        """Cameras that the numbers of all splits reach to."""
        return 1 + max(r.camid for r in (*self.train, *self.test_images))

    @property
    def num_views(self) -> int:
        """Views that the numbers of all splits reach to."""
        return 1 + max(r.viewid for r in (*self.train, *self.test_images))

    @property
    def test_images(self) -> list[Record]:
        """The images of all trials, each once: query and gallery of the first, then what others add."""
        return list(dict.fromkeys(r for trial in self.trials for r in (*trial.query, *trial.gallery)))

    @property
    def validation(self) -> QueryGallerySplit[Record] | None:
        """Query and gallery for choosing a checkpoint, or None where nothing is held out.

        Where at least two people of ``val`` do not train and have two images or more, only these are used: the first
        image of each by path is the gallery, the others are queries. Otherwise the held-out images of training people
        are the queries and the training images are the gallery.
        """
        images_of: dict[int, list[Record]] = {}
        for record in sorted(self.val):
            images_of.setdefault(record.pid, []).append(record)
        unseen = [r for pid, r in images_of.items() if pid >= self.num_train_pids and len(r) > 1]
        if len(unseen) > 1:
            return QueryGallerySplit(
                None, [r for images in unseen for r in images[1:]], [images[0] for images in unseen]
            )
        query = [record for record in self.val if record.pid < self.num_train_pids]
        return QueryGallerySplit(None, query, self.train) if query else None

    def check_train(self) -> None:
        """Refuse a train set from which nothing can be learned: telling people apart takes two of them."""
        if self.num_train_pids < 2:
            found = f"one identity ({self.train_identities[0]})" if self.train else "no image"
            raise UselessDataError(f"{self.name}: the train set has {found}; at least two identities are needed.")

    def check_test(self) -> None:
        """Refuse a test set on which nothing can be measured, before hours are spent on training."""
        for split, records in (("query", self.query), ("gallery", self.gallery)):
            if not records:
                raise UselessDataError(f"{self.name}: the {split} set is empty; at least one image is needed.")
        if not any(self.has_positive()):
            rule = " once images of the same camera are ignored" if self.camera_rule == "market" else ""
            raise UselessDataError(
                f"{self.name}: no query identity appears in the gallery{rule} (camera rule "
                f"{self.camera_rule!r}). Put other images of the query people into the gallery, or, for data "
                "without cameras, set DATASETS.CAMERA_RULE to 'none'."
            )

    def trivial(self) -> list[str]:
        """What makes every answer of the test right, if anything does."""
        one = len({record.pid for record in self.gallery}) == 1
        return ["the gallery shows one identity only: every answer would be right"] if one else []

    def _unfindable(self) -> list[str]:
        """A note on the queries that the evaluation cannot score, if there are any."""
        lost = [q for q, found in zip(self.query, self.has_positive(), strict=True) if not found]
        if not lost:
            return []
        names = sorted({self.test_identities[q.pid] for q in lost})
        return [
            f"{len(lost)} of {len(self.query)} queries have no match in the gallery (camera rule "
            f"{self.camera_rule!r}) and are not scored; identities: {some(names)}"
        ]

    def has_positive(self) -> list[bool]:
        """For each query, whether the gallery holds a match: another image, which the camera rule does not remove."""
        if self.camera_rule == "none":
            paths_of: dict[int, set[str]] = {}
            for record in self.gallery:
                paths_of.setdefault(record.pid, set()).add(record.path)
            return [len(paths_of.get(q.pid, ())) > (q.path in paths_of.get(q.pid, ())) for q in self.query]
        cameras_of: dict[int, set[int]] = {}
        for record in self.gallery:
            cameras_of.setdefault(record.pid, set()).add(record.camid)
        return [bool(cameras_of.get(q.pid, set()) - {q.camid}) for q in self.query]

    def person(self, record: Record) -> str | None:
        """Whose hand or finger an image shows, or None where the data set does not say."""
        return self.attributes.get(record.path, {}).get("person")

    def pair_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """:attr:`pairs` as rows of the query [P] and of the gallery [P], and whether they are of one identity [P].

        Pairs of images that were left out as unreadable are not among them.
        """
        query, gallery = ({r.path: i for i, r in enumerate(part)} for part in (self.query, self.gallery))
        rows = [(query[a], gallery[b], same) for a, b, same in self.pairs if a in query and b in gallery]
        left, right, same = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        return left, right, same.astype(bool)


def _numbering(train: Iterable[int], test: Iterable[int]) -> dict[int, int]:
    """Consecutive numbers: the training labels in sorted order, then the labels only the test set has."""
    first = sorted(set(train))
    return {label: i for i, label in enumerate([*first, *sorted(set(test) - set(first))])}


def some(names: Sequence[str], limit: int = 5, total: int | None = None) -> str:
    """The first ``limit`` names, and how many more of ``total`` (by default of ``names``) there are: for messages."""
    more = max(len(names), total or 0) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def require_folder(path: Path, hint: str) -> Path:
    """``path`` itself if it is a folder; ``hint`` says what belongs there.

    Raises:
        ReIDError: there is no such folder.
    """
    if not path.is_dir():
        raise ReIDError(f"{path}: no such folder. {hint}")
    return path

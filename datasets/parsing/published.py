"""Common parts of the six published sets: the folder, file-name grammars, list files, and the papers' counts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from datasets.bases import Photo, QueryGallerySplit, ReIDDataset, some
from datasets.parsing.folders import find_root, note_others, scan
from utils.errors import ReIDError
from utils.files.text_files import read_text
from utils.words import number_of


class Size(NamedTuple):
    """How large a split is."""

    identities: int
    images: int

    def __str__(self) -> str:
        return f"{self.identities:,} identities and {self.images:,} images"


SPLITS = ("train", "query", "gallery")

Splits = dict[str, list[Photo]]
"""What was found for each of :data:`SPLITS`."""


class PublishedDataset(ReIDDataset):
    """A set that others collected: it has a home page, known folder names and known counts.

    Where the train images are absent, cameras and views are numbered as in the published train sets, which
    hold all of them, so that a trained model's camera and view embeddings still fit.

    Args:
        splits: what the reader found.
        root: the set's own folder.
        name, camera_rule, require_train, notes, run, redrawn: as for :class:`ReIDDataset`.
    """

    title: ClassVar[str]
    """Name in messages."""
    source: ClassVar[str]
    """Citation, project page and whom to contact."""
    folders: ClassVar[tuple[str, ...]]
    """Names, relative to the root, under which the set is looked for; the first is the published code's."""
    marker: ClassVar[str]
    """File or folder that every copy has."""
    cameras: ClassVar[int] = 1
    views: ClassVar[int] = 1

    def __init__(
        self,
        splits: Splits,
        root: Path,
        *,
        name: str,
        camera_rule: str = "market",
        require_train: bool,
        notes: Sequence[str],
        run: int | None = None,
        redrawn: Sequence[QueryGallerySplit[Photo]] = (),
    ) -> None:
        labels = [*((c, 0) for c in range(self.cameras)), *((0, v) for v in range(self.views))]
        super().__init__(
            **splits,
            name=name,
            camera_rule=camera_rule,
            absent=[] if splits["train"] else [Photo("", "", *label) for label in labels],
            require_train=require_train,
            notes=notes,
            run=run,
            redrawn=redrawn,
        )
        self.root = root

    @classmethod
    def hint(cls) -> str:
        """Where the set comes from and where to put it."""
        return f"{cls.title}: {cls.source} Unpack it so that ROOT_DIR/{cls.folders[0]}/{cls.marker} exists."

    @classmethod
    def locate(cls, root: str | Path) -> Path:
        """The set's own folder, given that folder or the one above it.

        Raises:
            ReIDError: it is in neither; the message lists what was tried and where to fetch the set.
        """
        tried = ", ".join(str(folder) for folder in (Path(root), *(Path(root) / name for name in cls.folders)))
        return find_root(root, cls.marker, cls.folders, f"Tried {tried}. {cls.hint()}")

    @classmethod
    def count_notes(cls, splits: Splits, sizes: Sequence[Size]) -> list[str]:
        """One note for each split whose counts differ from the published ones, and one for the cameras.

        Splits that were not read (no train images where only a test is wanted) are not compared.
        """
        notes = []
        for split, size in zip(SPLITS, sizes, strict=True):
            photos = splits[split]
            found = Size(len({p.identity for p in photos}), len(photos))
            if photos and found != size:
                notes.append(f"{cls.title} {split}: expected {size}, found {found}")
        seen = len({p.camera for photos in splits.values() for p in photos})
        if splits["train"] and seen != cls.cameras:
            notes.append(f"{cls.title}: expected {cls.cameras} cameras, found {seen}")
        return notes

    @classmethod
    def may_skip(cls, train: Path, require_train: bool, notes: list[str]) -> bool:
        """Whether the train split may be skipped: it is absent and only a test is wanted."""
        if require_train or train.exists():
            return False
        notes.append(f"{train} is absent, so only a test is possible")
        return True


class NamedPhotos(PublishedDataset):
    """A set with one folder a split whose file names hold identity and camera.

    Args:
        root: the set's own folder or the one above it.
        require_train: raise if the train folder is absent; otherwise it may be.
        camera_rule: ``"market"``, the published one, or ``"none"``.

    Raises:
        ReIDError: a folder is absent, or no file in it is named as the set names its files.
    """

    grammar: ClassVar[re.Pattern[str]]
    """Matches whole file names; groups ``identity`` and ``camera`` (from 1). Identity -1 is junk."""
    example: ClassVar[str]
    """A file name that matches."""
    sizes: ClassVar[tuple[Size, Size, Size]]
    """Published counts in the order of :data:`SPLITS`, junk excluded."""
    split_folders: ClassVar[tuple[str, str, str]] = ("bounding_box_train", "query", "bounding_box_test")
    """Folder of each of :data:`SPLITS`."""

    def __init__(self, root: str | Path, *, require_train: bool = True, camera_rule: str = "market") -> None:
        notes: list[str] = []
        folder = self.locate(root)
        splits = self.read_splits(folder, require_train, notes)
        rest = {"name": self.title, "camera_rule": camera_rule, "require_train": require_train, "notes": notes}
        super().__init__(splits, folder, **rest)

    @classmethod
    def read_splits(cls, folder: Path, require_train: bool, notes: list[str]) -> Splits:
        """Read the three folders; what was left out and which counts are unexpected goes to ``notes``."""
        splits: Splits = {}
        for split, name in zip(SPLITS, cls.split_folders, strict=True):
            skip = split == "train" and cls.may_skip(folder / name, require_train, notes)
            splits[split] = [] if skip else cls._read_folder(folder / name, notes)
        notes += cls.count_notes(splits, cls.sizes)
        return splits

    @classmethod
    def _read_folder(cls, folder: Path, notes: list[str]) -> list[Photo]:
        if not folder.is_dir():
            raise ReIDError(f"{folder}: no such folder, the copy is incomplete. {cls.hint()}")
        content = scan(folder)
        photos, unmatched, junk = [], [], 0
        for name in content.images:
            match = cls.grammar.fullmatch(name)
            if match is None or not 1 <= int(match["camera"]) <= cls.cameras:
                unmatched.append(name)
            elif match["identity"] == "-1":
                junk += 1
            else:
                photos.append(Photo(str(folder / name), match["identity"], int(match["camera"]) - 1))
        if not photos:
            raise ReIDError(
                f"{folder}: none of its {len(content.images)} images is named like {cls.example} (cameras 1 "
                f"to {cls.cameras}); found {some(unmatched, 3) or 'nothing'}. {cls.hint()}"
            )
        if unmatched:
            notes.append(
                f"{folder}: {number_of(len(unmatched), 'image is', 'images are')} not named like {cls.example} and "
                f"left out: "
                f"{some(unmatched, 3)}"
            )
        if junk:
            notes.append(f"{folder}: {junk} junk images (identity -1) were left out, as the protocol requires")
        notes += note_others(content.others, str(folder))
        return photos


def read_list(path: Path, grammar: re.Pattern[str], example: str, notes: list[str], hint: str) -> list[re.Match]:
    """The lines of a split list as matches of ``grammar``; blank lines do not count.

    Raises:
        ReIDError: no such file, or not one line matches.
    """
    text = read_text(path, hint=hint)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [match for match in map(grammar.fullmatch, lines) if match]
    if not matches:
        raise ReIDError(f"{path}: none of its {len(lines)} lines reads like {example!r}. {hint}")
    if len(matches) < len(lines):
        unmatched = [line for line in lines if not grammar.fullmatch(line)]
        found = some(unmatched, 3)
        notes.append(
            f"{path}: {number_of(len(unmatched), 'line does', 'lines do')} not read like {example!r}, left out: {found}"
        )
    return matches


def require_images(photos: Sequence[Photo], hint: str) -> None:
    """Check that listed images lie on disk, listing each folder once instead of testing every file.

    Raises:
        ReIDError: at least one is absent. A list that shrinks in silence would change the benchmark.
    """
    places = [os.path.split(photo.path) for photo in photos]
    present = {f: set(scan(f).images) if Path(f).is_dir() else set() for f in {folder for folder, _ in places}}
    missing = [photo.path for photo, (f, name) in zip(photos, places, strict=True) if name not in present[f]]
    if missing:
        raise ReIDError(f"{len(missing)} of {len(photos)} listed images are absent: {some(missing, 3)}. {hint}")

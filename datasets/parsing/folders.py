"""Reading image folders quickly and accounting for every file in them. No image is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.bases import WARNING, some
from utils.errors import ReIDError, unreadable_folder
from utils.files.text_files import nfc
from utils.images import IMAGE_SUFFIXES
from utils.words import number_of

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
"""Files and folders, in lower case, that operating systems leave among photographs."""


class FolderContent(NamedTuple):
    """What lies directly in one folder; names only, each list sorted."""

    images: list[str]
    folders: list[str]
    others: list[str]


def scan(folder: str | Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> FolderContent:
    """Names directly in ``folder``; hidden ones and files that operating systems add are left out.

    Args:
        suffixes: what makes a file an image, in lower case; the files' own case does not matter.

    Raises:
        ReIDError: ``folder`` cannot be read.
    """
    content = FolderContent([], [], [])
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError as error:
        raise unreadable_folder(error) from None
    for entry in entries:
        name = entry.name
        if name.startswith(".") or name.lower() in _LITTER:
            continue
        if _is_folder(entry):
            content.folders.append(name)
        elif os.path.splitext(name)[1].lower() in suffixes:  # noqa: PTH122 (a Path each is slow)
            content.images.append(name)
        else:
            content.others.append(name)
    for names in content:
        names.sort()
    return content


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether ``entry`` is a folder or leads to one; a link that leads in a circle does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def note_others(others: Iterable[str], where: str) -> list[str]:
    """A note on the files that are not images, by kind, if there are any."""
    kinds = Counter(_kind(name) for name in others)
    if not kinds:
        return []
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return [f"{where}: {number_of(kinds.total(), 'file')} left out, not images ({listed})"]


def spelled(root: str | Path, path: str) -> str | None:
    """``path`` below ``root`` as the file system spells it, in any Unicode form; None if there is no such file."""
    if os.path.isfile(f"{root}/{path}"):  # noqa: PTH113 -- a Path each is slow
        return path
    place = ""
    for part in path.split("/"):
        here = f"{root}/{place}"
        if not os.path.lexists(here + part):
            names = os.listdir(here) if os.path.isdir(here) else []  # noqa: PTH112, PTH208
            part = next((name for name in names if nfc(name) == nfc(part)), None)
            if part is None:
                return None
        place += f"{part}/"
    return place[:-1] if os.path.isfile(f"{root}/{place[:-1]}") else None  # noqa: PTH113


def find_root(root: str | Path, marker: str, names: Sequence[str], tree: str) -> Path:
    """The folder that holds ``marker``: ``root`` itself or one of its children called ``names``.

    Args:
        marker: file or folder, relative, by which the data set is known.
        tree: the expected folder tree and where the data comes from, for the message.

    Raises:
        ReIDError: ``marker`` is in none of them, or ``root`` cannot be read.
    """
    root = Path(root)
    candidates = [root, *(root / name for name in names)]
    for folder in candidates:
        if (folder / marker).exists():
            return folder
    holds = some(sorted(name for kind in scan(root) for name in kind), 8) if root.is_dir() else ""
    found = f"it holds: {holds or 'nothing'}" if root.is_dir() else "there is no such folder"
    raise ReIDError(f"{root}: has no {marker!r} ({found}). Set DATASETS.ROOT_DIR. {tree}")


def note_lost(lost: Mapping[str, Iterable[str]], where: str) -> list[str]:
    """A warning on the identities of ``lost`` none of whose files, by name, is read as an image, if there are any."""
    lost = {identity: list(files) for identity, files in lost.items() if files}
    if not lost:
        return []
    kinds = Counter(_kind(name) for files in lost.values() for name in files)
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return [
        f"{WARNING}{where}: {number_of(len(lost), 'identity loses', 'identities lose')} all images, because none of "
        f"their files is one that is read ({listed}): {some(list(lost))}"
    ]


def _kind(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "no ending"  # noqa: PTH122


def images_below(root: Path) -> tuple[list[str], list[str]]:
    """Paths relative to ``root``, with forward slashes, of all images below it and of all other files, each sorted.

    Links to folders are followed, but never into a folder that leads back to where they stand.

    Raises:
        ReIDError: a folder cannot be read.
    """
    images, others = [], []

    def visit(folder: str, above: frozenset[str]) -> None:
        content = scan(root / folder)
        images.extend(f"{folder}{name}" for name in content.images)
        others.extend(f"{folder}{name}" for name in content.others)
        for name in content.folders:
            inner = f"{folder}{name}"
            real = os.path.realpath(root / inner)
            if real not in above:
                visit(f"{inner}/", above | {real})

    visit("", frozenset({os.path.realpath(root)}))
    return sorted(images), sorted(others)

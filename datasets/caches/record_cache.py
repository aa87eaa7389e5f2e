"""A cache of what was computed from images: records of equal size, one for each image of a data set.

A file in memory has no name and disappears with the processes that hold it. Records are read and written in one call
each and carry their key, so any number of worker processes and runs may share a file without locks: a record that is
missing, torn, damaged or of an older version of the image is computed again and overwritten.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import ClassVar

from utils.errors import ReIDError
from utils.images import AS_STORED, Reading

GIGABYTE = 2**30
DIGEST = 16
CHECKSUM = 4


class RecordCache:
    """Records of one size for the images in ``paths``, each made at its first use.

    A record is valid as long as its image's file has the same path, size and time of modification, the same part
    of it is used and the version is the same.

    Args:
        size: bytes of what a record holds.
        version: of what is computed, how and by which versions of packages.
        paths: of the images; the first ones are kept if there is no room for all.
        budget: bytes that may be used.
        folder: of the file on disk; None: a file without a name, shared with worker processes.
        reading: how files become pictures.

    Raises:
        ReIDError: ``folder`` cannot be written to.
    """

    suffix: ClassVar[str]
    """Of the file's name."""

    def __init__(
        self,
        size: int,
        version: str,
        paths: Sequence[str],
        budget: int,
        folder: Path | None = None,
        reading: Reading = AS_STORED,
    ) -> None:
        self.record = DIGEST + CHECKSUM + size
        self.version, self.reading = version, reading
        self.kept = {path: i for i, path in enumerate(list(dict.fromkeys(paths))[: budget // self.record])}
        listed = "\0".join([self.version, *self.kept])
        self.name = hashlib.blake2b(_bytes(listed), digest_size=DIGEST).hexdigest() + self.suffix
        self.file = self.without_name() if folder is None else _on_disk(folder, self.name)

    def __getstate__(self) -> dict:
        """For worker processes that are not forked: the open file goes along."""
        return self.__dict__ | {"file": DupFd(self.file)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state | {"file": state["file"].detach()}

    def __del__(self) -> None:
        if isinstance(getattr(self, "file", None), int):
            os.close(self.file)

    @property
    def bytes(self) -> int:
        """Size of the file with every record in it."""
        return len(self.kept) * self.record

    def without_name(self) -> int:
        """A file in memory where the system has such files, among the temporary ones elsewhere."""
        return os.memfd_create("images") if hasattr(os, "memfd_create") else on_disk_without_name()

    def content(self, path: str, make: Callable[[str], bytes]) -> bytes | memoryview:
        """The record of the image at ``path``, which ``make`` computes where it is not there."""
        if path not in self.kept:
            return make(path)
        place, key = self.kept[path] * self.record, self._key(path)
        record = os.pread(self.file, self.record, place)
        if len(record) == self.record and record[:DIGEST] == key:
            content = memoryview(record)[DIGEST + CHECKSUM :]
            if zlib.crc32(content).to_bytes(CHECKSUM, "big") == record[DIGEST : DIGEST + CHECKSUM]:
                return content
        # The key is from before the file was read: if it changes in between, the record is stale at once.
        content = make(path)
        try:
            os.pwrite(self.file, key + zlib.crc32(content).to_bytes(CHECKSUM, "big") + content, place)
        except OSError:
            self.kept.pop(path)  # no space left on the disk: computed at each use from now on
        return content

    def _key(self, path: str) -> bytes:
        try:
            status = os.stat(path)  # noqa: PTH116 -- a Path each is slow
        except OSError:
            return bytes(DIGEST)  # reading it will say why
        shown = self.reading.place(path)
        text = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{shown}\0{self.version}"
        return hashlib.blake2b(_bytes(text), digest_size=DIGEST).digest()


def cache_folder(name: str) -> Path:
    """``DATASETS.CACHE_DIR``, or the user's own folder of caches where that is empty."""
    if name:
        return Path(name)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "clipreid" / "images"


def make_room(folder: Path, ending: str, keep: Sequence[str], budget: int) -> None:
    """Delete the files of other data sets, least recently opened first, down to ``budget`` bytes.

    A run that has one of them open keeps it: the space is free when that run ends.
    """
    others = []
    for path in folder.glob(f"*{ending}"):
        with suppress(FileNotFoundError):  # other processes make room, too
            others += [(path.stat(), path)] if path.name not in keep else []
    for status, path in sorted(others, key=lambda other: other[0].st_mtime_ns, reverse=True):
        budget -= status.st_size
        if budget < 0:
            path.unlink(missing_ok=True)


def on_disk_without_name() -> int:
    """A temporary file that is gone when it is closed."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _on_disk(folder: Path, name: str) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.utime(path)
    except OSError as error:
        raise ReIDError(
            f"DATASETS.CACHE_DIR = {str(folder)!r} cannot be written to ({error.strerror}). Name another folder, or "
            "set DATASETS.CACHE to ram or none."
        ) from None
    return file


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # file names need not be UTF-8

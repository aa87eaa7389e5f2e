"""Paths as a run writes them: shareable, without the folders above a data set, a run or a file of weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def name_below(path: str | Path, root: Path) -> str:
    """``path`` from ``root`` on, with forward slashes; its file name where it lies elsewhere."""
    path = Path(path)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


class ShortPaths:
    """Rewrites texts that name files.

    Below the working directory paths become relative to it, below the home folder they begin with ``~``. Of an absolute
    path that the configuration names, and of all below it, what is above its last part becomes ``...``: with
    ``DATASETS.ROOT_DIR /mnt/lab/hands`` a photograph is ``.../hands/train/7/a.jpg``.

    Args:
        named: texts of the configuration; those that are no absolute path are passed over.
    """

    def __init__(self, named: Iterable[str] = ()) -> None:
        whole = {str(Path.cwd()): ("", "."), str(Path.home()): (f"~{os.sep}", "~")}
        named = [os.path.normpath(path) for path in named if os.path.isabs(path)]  # noqa: PTH117
        above = {os.path.dirname(form) for path in named for form in (path, os.path.realpath(path))}  # noqa: PTH120
        self.replacements: list[tuple[re.Pattern[str], str]] = []
        for folder, (below, itself) in whole.items():
            if folder.strip(os.sep):
                self.replacements += [(_below(folder), below), (_itself(folder), itself)]
        for folder in sorted(above, key=len, reverse=True):
            if folder.strip(os.sep):
                self.replacements.append((_below(folder), f"...{os.sep}"))

    def __call__(self, text: str) -> str:
        """``text`` with short paths."""
        for pattern, short in self.replacements:
            text = pattern.sub(lambda _, short=short: short, text)
        return text

    def everywhere(self, content: Any) -> Any:
        """``content``, made of dicts, lists and values as JSON is, with short paths in all its texts."""
        if isinstance(content, str):
            return self(content)
        if isinstance(content, dict):
            return {key: self.everywhere(value) for key, value in content.items()}
        return [self.everywhere(value) for value in content] if isinstance(content, list | tuple) else content


def _below(folder: str) -> re.Pattern[str]:
    """The beginning of a path below ``folder``; as a part of another folder's name it does not count."""
    return re.compile(rf"(?<![\w.~-]){re.escape(folder + os.sep)}(?=[^\s/])")


def _itself(folder: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.~-]){re.escape(folder)}(?![\w.-]*[\w-])")

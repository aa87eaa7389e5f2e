"""Merging several data sets into one; each becomes a source."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.bases import WARNING, ReIDDataset, some
from datasets.fields.sources import SOURCE
from datasets.parsing.splits import SplitDataset, SplitRow, split_of
from utils.errors import ReIDError

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def named_sources(words: Sequence[str]) -> dict[str, str]:
    """``NAME=PLACE`` as given behind ``--merge``: places by name.

    Raises:
        ReIDError: a word has another form, or two sources have one name.
    """
    found: dict[str, str] = {}
    for word in words:
        name, mark, place = word.partition("=")
        if not mark or not place or not _NAME.fullmatch(name):
            raise ReIDError(
                f"--merge {word!r}: expected NAME=FOLDER or NAME=FILE.yml, with a name of letters, digits, '.', '_' "
                "and '-', such as fkp=data/polyu_fkp_roi."
            )
        if name in found:
            raise ReIDError(
                f"--merge {word!r}: {name} is named already, {name}={found[name]}. Give each set its own name."
            )
        found[name] = place
    return found


def merged(sets: Mapping[str, ReIDDataset]) -> SplitDataset:
    """All images of ``sets`` in the splits that they have; random splits are the first of each.

    Identities and people are named ``<source>/<name>``, cameras and views are numbered one set after the other, so no
    two sets share any by name or number. The source of each image is an attribute. Paths start from the folder that
    holds all sets.

    Raises:
        ReIDError: two sets have an image in common, or there is no folder that holds all.
    """
    tops = {name: Path(dataset.root).absolute() for name, dataset in sets.items()}
    try:
        root = Path(os.path.commonpath(tops.values()))
    except ValueError:
        raise ReIDError(
            f"--merge: {some(list(map(str, tops.values())))} are on different drives; bring them together."
        ) from None
    rows: list[SplitRow] = []
    owner: dict[str, str] = {}
    cameras = views = 0
    for name, dataset in sets.items():
        for row in split_of(dataset, root):
            if owner.setdefault(row.path, name) != name:
                raise ReIDError(
                    f"--merge: {root / row.path} is in {owner[row.path]} and in {name}. An image belongs to one source."
                )
            known = dict(row.attributes) | {SOURCE: name}
            if "person" in known:
                known["person"] = f"{name}/{known['person']}"
            numbers = {"camera": str(cameras + int(row.camera)), "view": str(views + int(row.view))}
            rows.append(row._replace(identity=f"{name}/{row.identity}", attributes=tuple(known.items()), **numbers))
        cameras, views = cameras + dataset.num_cameras, views + dataset.num_views
    rules = {dataset.camera_rule for dataset in sets.values()}
    result = SplitDataset(
        rows,
        root,
        name=" + ".join(sets),
        camera_rule="none" if len(rules) > 1 else next(iter(rules)),
        notes=[_named(name, note) for name, dataset in sets.items() for note in dataset.notes],
    )
    if len(rules) > 1:
        result.notes.append(
            f"{WARNING}the sets have different camera rules; together they are tested by the rule none. TEST.TARGETS "
            "tests each by its own"
        )
    for name, dataset in sets.items():
        if dataset.protocol in ("pairs", "all_pairs", "fvc"):
            result.notes.append(
                f"{WARNING}{name}: its protocol {dataset.protocol} is not kept; TEST.TARGETS tests by it"
            )
        if len(dataset.trials) > 1:
            result.notes.append(f"{name}: of its {len(dataset.trials)} random splits, the first")
    return result


def _named(name: str, note: str) -> str:
    """``note`` with the name of its set; what makes it a warning stays in front."""
    mark = WARNING if note.startswith(WARNING) else ""
    return f"{mark}{name}: {note.removeprefix(WARNING)}"

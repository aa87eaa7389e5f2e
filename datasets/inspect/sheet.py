"""The contact sheet of a data set: a row of pictures for each of some identities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from PIL import Image

from datasets.bases import ReIDDataset
from datasets.inspect.checks import Splits
from datasets.inspect.fingerprints import Fingerprint
from utils.plots.sheets import QUERY, RIGHT, Shown, contact_sheet, evenly

ROWS, COLUMNS = 12, 8
TRAIN_COLOUR, VAL_COLOUR = (43, 87, 154), (214, 122, 20)


def identity_sheet(dataset: ReIDDataset, splits: Splits, found: Mapping[str, Fingerprint]) -> Image.Image:
    """A row for each of some identities, half of train and val and half of the test."""
    train = {split: splits[split] for split in ("train", "val") if splits[split][0]}
    train = _rows(train, found, {"train": TRAIN_COLOUR, "val": VAL_COLOUR})
    test = _rows({s: splits[s] for s in ("query", "gallery")}, found, {"query": QUERY, "gallery": RIGHT})
    rows = [part[i] for part in (train, test) for i in evenly(len(part), ROWS // 2)]
    held_out = "val (orange), " if splits["val"][0] else ""
    count = f"{len(rows)} of {len(train) + len(test)} identities, one in each row"
    title = f"{dataset.name}: {count}; train (blue), {held_out}query (dark grey), gallery (green)"
    return contact_sheet(rows, title, reading=dataset.reading)


def _rows(splits: Splits, found: Mapping[str, Fingerprint], colours: Mapping[str, tuple]) -> list[list[Shown]]:
    """The pictures of each identity, by identity: of every split some."""
    rows: dict[int, list[Shown]] = {}
    for split, (records, identities) in splits.items():
        shown: dict[int, list[Shown]] = defaultdict(list)
        for record in records:
            if record.path in found:
                caption = f"{identities[record.pid]}\n{split}, {found[record.path].width}x{found[record.path].height}"
                shown[record.pid].append(Shown(record.path, caption, colours[split]))
        for pid, pictures in shown.items():
            rows.setdefault(pid, []).extend(pictures[i] for i in evenly(len(pictures), COLUMNS // len(splits)))
    return [rows[pid] for pid in sorted(rows)]

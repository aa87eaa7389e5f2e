"""Progress bars that count images: how many a second, and how long it will take."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.distributed import shard_of
from utils.logger import on_terminal

PATIENCE = 2.0
"""Seconds before a bar appears; what is done by then needs none."""


def image_bar(total: int, doing: str, done: int = 0) -> tqdm:
    """A bar over ``total`` images, of which ``done`` were done before; nothing where nobody is watching."""
    return tqdm(
        total=total,
        initial=done,
        desc=doing,
        unit=" images",
        delay=PATIENCE,
        leave=False,
        dynamic_ncols=True,
        disable=not on_terminal(),
    )


def counted(loader: DataLoader, doing: str) -> Iterator[list[Tensor]]:
    """The batches of ``loader``, which visits this process's share of its images once, under a bar."""
    with image_bar(len(shard_of(len(loader.dataset))), doing) as bar:
        for batch in loader:
            yield batch
            bar.update(len(batch[0]))

"""The processes that read images: how many there are, and a function of each item of a list that they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from utils.compute.cores import usable_cores
from utils.compute.distributed import local_world_size
from utils.console.interrupt import check_interrupt, ignore_signals
from utils.console.progress import image_bar

if TYPE_CHECKING:
    from yacs.config import CfgNode

Item = TypeVar("Item")
Result = TypeVar("Result")

_FEW = 16
"""Items for which no processes are started."""


def num_workers(cfg: CfgNode) -> int:
    """``DATALOADER.NUM_WORKERS``, at most one for each usable core; processes on one machine divide them."""
    return min(cfg.DATALOADER.NUM_WORKERS, max(usable_cores() // local_world_size(), 1))


class _Each(Dataset, Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Result:
        return self.function(self.items[index])


def of_each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, doing: str, place: str
) -> Iterator[Result]:
    """``function`` of each item, in order, under a bar.

    Args:
        function: of one item; it goes to the processes, so it and its results can be pickled.
        items: anything that can be counted and indexed.
        workers: processes; 0: this one.
        doing: what stands beside the bar.
        place: what an interrupt stops, for the message.
    """
    each = _Each(function, items)
    workers = workers if len(each) > _FEW else 0
    with image_bar(len(each), doing) as bar:
        for result in DataLoader(
            each, batch_size=None, num_workers=workers, worker_init_fn=ignore_signals, collate_fn=_as_it_is
        ):
            check_interrupt(place)
            yield result
            bar.update()


def _as_it_is(result: Result) -> Result:
    return result

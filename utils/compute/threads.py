"""Work of several threads on the CPU, each with products of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from threading import Lock
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

CPU = torch.device("cpu")


def in_threads(work: Callable[[Part], Result], parts: Iterable[Part], device: torch.device = CPU) -> list[Result]:
    """``work`` of each part, in order: on the CPU in as many threads as torch uses, elsewhere one after another.

    Each thread takes the next part when it is done with one. Torch uses a single thread in each of them: its own
    threads share one operation at a time, and hold their cores while they wait for the next. Torch sets its number of
    threads for the whole process, so another thread that computes for the first time meanwhile keeps to one.
    """
    threads, parts = torch.get_num_threads(), iter(parts)
    first = list(islice(parts, 2))
    if device.type != "cpu" or threads == 1 or len(first) < 2:
        return [work(part) for part in chain(first, parts)]
    queue = _Queue(work, chain(first, parts))
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for running in [pool.submit(queue.work_off) for _ in range(threads)]:
                    running.result()
            finally:
                queue.close()  # after an error or Ctrl-C
    finally:
        torch.set_num_threads(threads)
    return [queue.found[number] for number in range(len(queue.found))]


class _Queue:
    """Parts for threads, and what became of them.

    Attributes:
        found: the results by the numbers of the parts.
    """

    def __init__(self, work: Callable[[Part], Result], parts: Iterable[Part]) -> None:
        self.found: dict[int, Result] = {}
        self._work, self._parts, self._lock = work, enumerate(parts), Lock()
        self._inference, self._grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def work_off(self) -> None:
        """Do one part after another until there is none."""
        try:
            # Both modes belong to a thread.
            with torch.inference_mode(self._inference), torch.set_grad_enabled(self._grad):
                while (part := self._next()) is not None:
                    self.found[part[0]] = self._work(part[1])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hand out no further part."""
        with self._lock:
            self._parts = iter(())

    def _next(self) -> tuple[int, Part] | None:
        with self._lock:
            return next(self._parts, None)

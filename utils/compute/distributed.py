"""Several processes, started by torchrun, that work as one. Without torchrun everything here is for one process.

Each process computes on its share of a batch, of a test set or of the identities; what belongs to the whole is
gathered. Tensors travel by NCCL between GPUs and by Gloo between CPUs, everything else by Gloo. Functions that
communicate have to be called by all processes in the same order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from utils.compute.precision import autocast_of_run
from utils.compute.workers import kill_workers
from utils.errors import ReIDError

T = TypeVar("T")

STEP_PATIENCE = timedelta(minutes=30)
"""Time limit of a tensor exchange: the first batch is read from a cold disk."""

MAIN_PATIENCE = timedelta(days=2)
"""How long the others wait while the first process ranks a test set or writes files."""

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which torchrun describes the processes."""

BUCKET = 2**23
"""Gradient elements that travel together."""

FAILURE_PATIENCE = 2.0
"""Seconds for which other processes wait for the first one to report why a run ends."""


@dataclass
class _Group:
    """The processes of this run: ``store`` outlives each of them, ``talk`` exchanges everything but the tensors of a
    step.
    """

    store: dist.Store
    talk: dist.ProcessGroup


_groups: list[_Group] = []


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _groups else 1


def rank() -> int:
    """The number of this process among all, from 0."""
    return dist.get_rank() if _groups else 0


def local_rank() -> int:
    """The number of this process on its machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if _groups else 0


def local_world_size() -> int:
    """How many of the processes are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _groups else 1


def is_main() -> bool:
    """Whether this is the process that writes files and the log."""
    return rank() == 0


@contextmanager
def joined_processes() -> Iterator[None]:
    """Join the processes that torchrun has started, within the block.

    Raises:
        ReIDError: another launcher has set only some of torchrun's variables, or the others cannot be reached.
    """
    if not _several():
        yield
        return
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=STEP_PATIENCE))
        # The GPU's backend connects when it is first used, which is after the device has been chosen.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=STEP_PATIENCE)
        group = _Group(dist.PrefixStore("clipreid", store), dist.new_group(backend="gloo", timeout=MAIN_PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise ReIDError(
            f"the processes that torchrun started cannot connect to each other ({error}). Check --rdzv_endpoint and "
            "whether the machines can reach each other."
        ) from None
    _groups.append(group)
    yield
    # Not after an error: a process that has lost another one would wait for it.
    _groups.clear()
    dist.destroy_process_group()


def _several() -> bool:
    """Whether a launcher has started several processes.

    Raises:
        ReIDError: its variables are incomplete or no numbers.
    """
    found = {name: os.environ.get(name, "").strip() for name in LAUNCHER}
    if not found["RANK"] or found["WORLD_SIZE"] in ("", "1"):
        return False
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise ReIDError(
            f"RANK = {found['RANK']} and WORLD_SIZE = {found['WORLD_SIZE']} are set, {', '.join(missing)} not: the "
            "launcher is not torchrun. Start with torchrun, set all of its variables, or unset RANK for one process."
        )
    wrong = [f"{name} = {value!r}" for name, value in found.items() if name != "MASTER_ADDR" and not value.isdecimal()]
    if wrong:
        raise ReIDError(f"{', '.join(wrong)}: expected whole numbers, as torchrun sets them.")
    return True


def shard_of(count: int) -> range:
    """Which of ``count`` things are for this process: neighbours, in the order of the processes, none left over."""
    return _share(count, rank())


def _share(count: int, number: int) -> range:
    return range(count * number // world_size(), count * (number + 1) // world_size())


def barrier() -> None:
    """Wait for all others."""
    if _groups:
        dist.barrier(_groups[0].talk)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the first process go first, then the first of each machine, then all: for files that the first one makes."""
    turn = 0 if is_main() else 1 if local_rank() == 0 else 2
    for _ in range(turn):
        barrier()
    yield
    for _ in range(2 - turn):
        barrier()


def any_process(flag: bool) -> bool:
    """Whether ``flag`` holds in one of the processes at least."""
    if not _groups:
        return bool(flag)
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, dist.ReduceOp.MAX, _groups[0].talk)
    return bool(flags)


def gather_objects(value: T) -> list[T]:
    """``value`` of each process, for all."""
    if not _groups:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, _groups[0].talk)
    return values


def gather_on_main(value: T) -> list[T]:
    """``value`` of each process, for the first one; empty in the others."""
    if not _groups:
        return [value]
    values: list[Any] = [None] * world_size() if is_main() else []
    dist.gather_object(value, values or None, 0, _groups[0].talk)
    return values


def from_main(compute: Callable[[], T]) -> T:
    """What ``compute`` returns in the first process, for all.

    Raises:
        ReIDError: in all processes if ``compute`` raises one.
    """
    return _by_main(compute, share=True)


def on_main_process(compute: Callable[[], T]) -> T | None:
    """What ``compute`` returns in the first process; None in the others, which wait for it.

    Raises:
        ReIDError: in all processes if ``compute`` raises one.
    """
    return _by_main(compute, share=False)


def _by_main(compute: Callable[[], T], share: bool) -> T | None:
    if not _groups:
        return compute()
    value, error = None, None
    if is_main():
        try:
            value = compute()
        except ReIDError as failure:
            error = failure
    message: list[Any] = [value if share else None, error and str(error)]
    dist.broadcast_object_list(message, 0, _groups[0].talk)
    if message[1] is not None:
        raise error or ReIDError(message[1])
    return value if is_main() else message[0]


@torch.no_grad()
def share_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrite ``tensors`` with those of the first process."""
    if not _groups:
        return
    for tensor in tensors:
        content = tensor.contiguous()  # convolutions may lie in memory with their channels last
        dist.broadcast(content, 0)
        tensor.copy_(content)


@torch.no_grad()
def stack_over_processes(tensor: Tensor) -> Tensor:
    """``tensor`` of every process, [N, ...]; its shape is the same in all. No gradients pass."""
    if not _groups:
        return tensor[None]
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def _all_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of all processes, which have ``counts`` of them."""
    if len(rows) < max(counts):  # Gloo takes equal shapes only
        rows = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
    parts = stack_over_processes(rows)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _GatherRows(Function):
    """Rows of all processes. Each computes the same loss from these, and their gradients are averaged."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.mine = slice(sum(counts[: rank()]), sum(counts[: rank() + 1]))
        return _all_rows(rows, counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # The average over the processes of this is the sum of what each contributes: the whole batch's gradient.
        return world_size() * gradient[ctx.mine], None


class _TakeRows(Function):
    """This process's share of rows that all have; undoes :class:`_GatherRows`, for gradients too."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.counts = [len(_share(len(rows), number)) for number in range(world_size())]
        mine = shard_of(len(rows))
        return rows[mine.start : mine.stop]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _all_rows(gradient, ctx.counts) / world_size()


def gather_batch(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, in their order, from each process's own.

    Gradients pass: where each process computes the same function of what is gathered, and the gradients of parameters
    are then averaged over the processes (:func:`average_gradients`), they are those of one process with the whole
    batch.

    Args:
        tensors: [b, ...] each, with the same b, which may differ between processes.

    Returns:
        The same tensors [B, ...], B being the sum of all b.
    """
    if not _groups:
        return tensors
    own = torch.tensor([len(tensors[0])])
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own, _groups[0].talk)
    counts = [int(part) for part in parts]
    return tuple(_GatherRows.apply(tensor, counts) for tensor in tensors)


def sharded(compute: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    """``compute(items)``, row by row [N, ...], with the rows divided among the processes.

    Gradients pass: to ``items``, which all processes have, and to parameters (:func:`average_gradients`).
    ``compute`` runs in the number format of the run (:func:`utils.compute.precision.computing_in`).
    """
    with autocast_of_run():
        mine = compute(_TakeRows.apply(items) if _groups else items)
    return gather_batch(mine)[0]


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of ``parameters`` by their means over the processes.

    Which parameters get gradients may change from step to step and from process to process: a gradient that only
    others have counts as 0 here, one that no process has is left out.
    """
    if not _groups:
        return
    trained = list(parameters)
    there = torch.tensor([p.grad is not None for p in trained], dtype=torch.uint8)
    dist.all_reduce(there, dist.ReduceOp.MAX, _groups[0].talk)
    for p, anywhere in zip(trained, there.tolist(), strict=True):
        if anywhere and p.grad is None:
            p.grad = torch.zeros_like(p)
    gradients = [p.grad for p, anywhere in zip(trained, there.tolist(), strict=True) if anywhere]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket]) / world_size()
        dist.all_reduce(flat)
        for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, together at most :data:`BUCKET` elements unless one alone is larger."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(t.numel() for t in bucket) + tensor.numel()
        if bucket and (tensor.dtype != bucket[0].dtype or size > BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def lost_process(error: BaseException) -> bool:
    """Whether ``error`` only reports that another process has ended."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    return bool(_groups) and isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def note_stop() -> None:
    """Note for the other processes that a signal ends this one."""
    if _groups:
        with suppress(RuntimeError):  # the machine with the store has ended
            _groups[0].store.add("stopped", 1)


def stop_noted() -> bool:
    """Whether some process has called :func:`note_stop`."""
    try:
        return bool(_groups) and _groups[0].store.check(["stopped"])
    except RuntimeError:  # as above
        return False


def may_report() -> bool:
    """Whether this process reports why the run ends: exactly one does, the first process if it can."""
    if not _groups:
        return True
    store, end = _groups[0].store, time.monotonic() + (0 if is_main() else FAILURE_PATIENCE)
    try:
        while time.monotonic() < end:
            if store.check(["left"]):
                return False
            time.sleep(0.05)
        return store.add("left", 1) == 1
    except RuntimeError:  # torchrun, which keeps the store, has ended
        return is_main()


def leave_at_once(status: int) -> None:
    """End this process if it is one of several: closing its connections may wait for a process that has ended."""
    if not _groups:
        return
    kill_workers()
    os._exit(status)

"""Which images make up a batch: shuffled, P identities with K images each, or pairs of an identity."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SeededIndex(NamedTuple):
    """One image of a batch and the seed of its augmentation.

    The seed makes a batch independent of the number of worker processes and of everything drawn before it.
    """

    index: int
    seed: int


MISFITS = 10
"""Consecutive images whose identity is in the batch already, after which an epoch of pairs ends."""

Share = Callable[[int], range]
"""From the size of a batch to the places in it that are for this process; ``range`` itself takes all."""


class EpochBatches(Sampler[list[SeededIndex]]):
    """Batches that are a pure function of seed and epoch; :meth:`set_epoch` chooses the epoch (1-based).

    Several processes plan the same batches, and each reads its share of each: put together in the order of the
    processes, these are the batch that one process would have read.

    Attributes:
        images_per_seed: neighbours in a batch that are augmented alike.
        length: batches of an epoch, repeated plans fill it; 0: those of one plan.
    """

    images_per_seed = 1
    length = 0

    def __init__(self, seed: int, share: Share = range) -> None:
        self.seed = seed
        self.share = share
        self.set_epoch(1)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Plan the batches of ``epoch``, without the first ``skip``, which an interrupted run has had."""
        rng = np.random.default_rng((self.seed, epoch))
        batches = plan = self.plan(rng)
        while plan and len(batches) < self.length:
            plan = self.plan(rng)
            batches = [*batches, *plan]
        batches = batches[: self.length or None]
        count = sum(len(batch) for batch in batches) // self.images_per_seed
        seeds = iter(rng.integers(2**62, size=count).repeat(self.images_per_seed).tolist())
        whole = [[SeededIndex(int(index), next(seeds)) for index in batch] for batch in batches][skip:]
        self.batches = [[batch[i] for i in self.share(len(batch))] for batch in whole]

    def plan(self, rng: np.random.Generator) -> list[Sequence[int]]:
        """Indices of one epoch, batch by batch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class ShuffledBatches(EpochBatches):
    """All images once an epoch, in random order.

    A last batch of fewer than ``smallest`` images is left out: BatchNorm needs two, and each process one.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, share: Share = range, smallest: int = 2) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.smallest = smallest
        super().__init__(seed, share)

    def plan(self, rng: np.random.Generator) -> list[Sequence[int]]:
        order = rng.permutation(self.num_images)
        batches = [order[i : i + self.batch_size] for i in range(0, self.num_images, self.batch_size)]
        return [batch for batch in batches if len(batch) >= self.smallest]


class PKBatchSampler(EpochBatches):
    """PK batches: P = batch_size / K identities with K images each (Hermans et al., arXiv 1703.07737).

    Each identity's images are shuffled and cut into groups of K; the incomplete rest is dropped, and an identity with
    fewer than K images is filled up by drawing with replacement. Batches are formed from random identities while at
    least P of them have a group left, so every batch is full. With ``once`` each identity has one group in an epoch.

    Args:
        pids: identity of each image [N].
        batch_size: images in a batch, a multiple of ``num_instances``.
        num_instances: K.
        seed: of everything drawn.
        share: of a batch; whole identities where their number is a multiple of that of the processes.
        once: the length of an epoch is that of the identities, not of the images.
    """

    def __init__(
        self,
        pids: Sequence[int],
        batch_size: int,
        num_instances: int,
        seed: int,
        share: Share = range,
        once: bool = False,
    ) -> None:
        order = np.argsort(pids, kind="stable")
        self.images_of = np.split(order, np.flatnonzero(np.diff(np.asarray(pids)[order])) + 1)
        self.identities_per_batch = batch_size // num_instances
        self.num_instances = num_instances
        self.once = once
        super().__init__(seed, share)

    def plan(self, rng: np.random.Generator) -> list[Sequence[int]]:
        groups = [self._groups(images, rng)[: 1 if self.once else None] for images in self.images_of]
        available = np.arange(len(groups))
        batches = []
        while len(available) >= self.identities_per_batch:
            places = rng.choice(len(available), self.identities_per_batch, replace=False)
            batches.append(np.concatenate([groups[pid].pop() for pid in available[places]]))
            available = np.delete(available, [place for place in places if not groups[available[place]]])
        return batches

    def _groups(self, images: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        if len(images) < self.num_instances:
            return [rng.choice(images, self.num_instances, replace=True)]
        whole = len(images) // self.num_instances
        return np.split(rng.permutation(images)[: whole * self.num_instances], whole)


class PairBatches(EpochBatches):
    """Batches of pairs: an image and another one of its identity, which occurs in no other pair of the batch.

    All images are shuffled; a batch takes the next whose identity it does not have yet, and those passed over go to the
    end. The epoch ends after :data:`MISFITS` in a row; every batch is full. Identities with one image are left out.
    Both images of a pair are augmented alike. As in CLIP-ReIdent (arXiv 2303.11855).

    Args:
        pids: identity of each image [N].
        batch_size: images in a batch, twice the pairs.
        seed: of everything drawn.
        share: of a batch; whole pairs where their number is a multiple of that of the processes.
    """

    images_per_seed = 2

    def __init__(self, pids: Sequence[int], batch_size: int, seed: int, share: Share = range) -> None:
        self.pids = np.asarray(pids)
        self.images_of = {
            pid: images for pid in np.unique(self.pids) if len(images := np.flatnonzero(self.pids == pid)) > 1
        }
        self.pairs_per_batch = batch_size // 2
        super().__init__(seed, share)

    def plan(self, rng: np.random.Generator) -> list[Sequence[int]]:
        waiting = deque(int(i) for i in rng.permutation(len(self.pids)) if self.pids[i] in self.images_of)
        batches, batch, taken, misfits = [], [], set(), 0
        # The first batch is searched among all images, so that no epoch is empty where there are enough identities.
        while waiting and misfits < (MISFITS if batches else len(waiting)):
            image = waiting.popleft()
            pid = self.pids[image]
            if pid in taken:
                waiting.append(image)
                misfits += 1
                continue
            others = self.images_of[pid]
            partner = int(rng.choice(others[others != image]))
            batch += [image, partner]
            taken.add(pid)
            misfits = 0
            if len(taken) == self.pairs_per_batch:
                batches.append(batch)
                batch, taken = [], set()
        return batches

"""All training images as a method sees them between epochs: without augmentation, in eval mode, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from model.backbones.base import Outputs
from model.base import Batch, Method
from utils.compute.device import Precision
from utils.compute.distributed import gather_objects, shard_of, share_from_main
from utils.compute.precision import widened
from utils.console.interrupt import check_interrupt
from utils.console.logger import LOGGER
from utils.console.progress import counted

Read = Callable[[Outputs], Tensor]


@dataclass
class PlainImages:
    """A :class:`model.base.TrainingSet` over a loader of plain images.

    Attributes:
        method: put into eval mode; of several processes' running statistics, those of the first count.
        loader: all training images once, in order; of several processes, each its share.
        precision: of the method's ``forward``.
        needs: see :meth:`model.base.Method.needs`.
    """

    method: Method
    loader: DataLoader
    precision: Precision
    needs: frozenset[str] = frozenset()

    def features(self, read: Read, side: bool = True) -> tuple[Tensor, Tensor]:
        """See :meth:`model.base.TrainingSet.features`."""
        LOGGER.info("computing the features of %d training images", len(self.loader.dataset))
        # Copies: what worker processes hand over is shared memory, which keeps files open as long as it lives.
        found = [(rows.cpu(), labels.cpu().clone()) for rows, labels, _ in self._pass(self.loader, read, side)]
        gathered = [batch for share in gather_objects(found) for batch in share]
        features, labels = (torch.cat(part).to(self.precision.device) for part in zip(*gathered, strict=True))
        return features, labels

    def by_identity(self, read: Read) -> Iterator[tuple[int, Tensor, Tensor]]:
        """See :meth:`model.base.TrainingSet.by_identity`."""
        labels = torch.tensor([record.pid for record in self.loader.dataset.records])
        mine = shard_of(int(labels.max()) + 1)
        order = [i for i in labels.argsort(stable=True).tolist() if labels[i] in mine]
        ordered = DataLoader(
            self.loader.dataset,
            batch_size=self.loader.batch_size,
            sampler=order,
            num_workers=self.loader.num_workers,
            collate_fn=self.loader.collate_fn,
            generator=torch.Generator(),
            worker_init_fn=self.loader.worker_init_fn,
        )
        held: list[tuple[Tensor, Tensor]] = []
        current = -1
        for rows, found, index in self._pass(ordered, read, side=True):
            for label in found.unique().tolist():  # sorted, as the images are
                if label != current and held:
                    yield current, *map(torch.cat, zip(*held, strict=True))
                    held = []
                current = label
                held.append((index[found == label], rows[found == label]))
        if held:
            yield current, *map(torch.cat, zip(*held, strict=True))

    @torch.no_grad()
    def _pass(self, loader: DataLoader, read: Read, side: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """``read`` [b, ...], labels [b] and index [b] of each batch, on the device."""
        share_from_main(self.method.buffers())
        self.method.eval()
        for loaded in counted(loader, "image features"):
            check_interrupt("the features of the training images")
            batch = Batch.of(loaded, self.needs, self.precision.device)
            if not side:
                batch = replace(batch, cameras=None, views=None)
            with self.precision.autocast():
                outputs = self.method(batch)
            outputs = {name: widened(rows) for name, rows in outputs.items()}
            with torch.autocast(self.precision.device.type, enabled=False):
                yield read(outputs), batch.labels, batch.index

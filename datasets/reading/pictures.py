"""The images of a batch as they travel to the device: 8-bit pixels, normalised on arrival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import transforms

from datasets.erasing import Patch
from datasets.preprocessing import Transform


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size, and what replaces parts of them once they are normalised.

    :meth:`to` makes what :data:`~datasets.preprocessing.Transform` makes of each, to the same bits on a CPU; a quarter
    of the bytes travel, and the noise of what is erased.

    Attributes:
        pixels: uint8 [B, H, W, 3].
        places: [P, 6] of each patch: picture, top, left, bottom, right, and how many of the ``values`` are its own; by
            picture, those of one in the order in which they are filled.
        values: [n] of all patches, float32.
        mean, std: per channel, of pixels in [0, 1].
    """

    pixels: Tensor
    places: Tensor
    values: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """The normalised images [B, 3, H, W], float32, on ``device``."""
        pixels = self.pixels.to(device, non_blocking=non_blocking).permute(0, 3, 1, 2)
        images = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        # Divided by tensors: a GPU would multiply by the reciprocal of a number, which rounds in another way.
        white, mean, std = (_channels(values, images.device) for values in ((255.0,), self.mean, self.std))
        images.div_(white).sub_(mean).div_(std)
        values = self.values.to(device, non_blocking=non_blocking)
        begin = 0
        for number, *box, count in self.places.tolist():
            size = (3, -1, box[3] - box[1]) if count > 3 else (3, 1, 1)
            own = values[begin : begin + count].view(size) if count else None
            Patch(*box, own).fill(images[number])
            begin += count
        return images

    def pin_memory(self) -> Pictures:
        """The same in page-locked memory, from which a GPU copies without the CPU."""
        return replace(self, pixels=self.pixels.pin_memory(), values=self.values.pin_memory())


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)[:, None, None]


class Preparation:
    """A transform in two halves: from a picture to its pixels, here, and from there to a tensor, on the device.

    Args:
        transform: steps of a picture, ``ToTensor``, ``Normalize`` and steps of :mod:`datasets.erasing`.
    """

    def __init__(self, transform: Transform) -> None:
        steps = transform.transforms
        middle = next(place for place, step in enumerate(steps) if isinstance(step, transforms.ToTensor))
        self.steps, self.patching = steps[:middle], steps[middle + 2 :]
        self.mean, self.std = (tuple(map(float, part)) for part in (steps[middle + 1].mean, steps[middle + 1].std))

    def __call__(self, picture: Image) -> Pictures:
        """One RGB picture."""
        for step in self.steps:
            picture = step(picture)
        pixels = torch.from_numpy(np.array(picture))[None]
        patches = [patch for step in self.patching if (patch := step.draw(*pixels.shape[1:3]))]
        values = [torch.empty(0) if patch.values is None else patch.values.flatten() for patch in patches]
        places = [[0, *patch[:4], len(own)] for patch, own in zip(patches, values, strict=True)]
        return Pictures(
            pixels,
            torch.tensor(places, dtype=torch.int64).view(-1, 6),
            torch.cat(values) if values else torch.empty(0),
            *(self.mean, self.std),
        )


def collate(samples: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """A batch of what :class:`~datasets.reading.images.ImageDataset` yields."""
    pictures: list[Pictures] = [sample["images"] for sample in samples]
    places = [part.places.clone() for part in pictures]
    for number, part in enumerate(places):
        part[:, 0] = number
    joined = replace(
        pictures[0],
        pixels=default_collate([part.pixels[0] for part in pictures]),
        places=torch.cat(places),
        values=torch.cat([part.values for part in pictures]),
    )
    others = [{name: value for name, value in sample.items() if name != "images"} for sample in samples]
    return {"images": joined} | default_collate(others)

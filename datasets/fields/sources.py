"""The source of each image, where one data set is made of several (:mod:`datasets.inspect.merging`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.bases import ReIDDataset, some
from utils.errors import ReIDError

SOURCE = "source"
"""Column of a listing, attribute of an image, and field of a batch."""


@dataclass(frozen=True)
class SourceReader:
    """The number of the source that an image is from.

    Attributes:
        numbers: by the path of the image.
        training: sources of the training images, which have the numbers 0 to ``training`` - 1.
    """

    numbers: Mapping[str, int]
    training: int

    def __call__(self, path: str, steps: Sequence[object], size: tuple[int, int]) -> Tensor:
        """A scalar."""
        return torch.tensor(self.numbers[path])


def source_reader(dataset: ReIDDataset) -> SourceReader | None:
    """Number the sources: those of the training images in sorted order, then those that only test images have.

    None where the data set names none.

    Raises:
        ReIDError: it names the sources of some images only.
    """
    named = {path: known[SOURCE] for path, known in dataset.attributes.items() if SOURCE in known}
    if not named:
        return None
    train = [record.path for record in dataset.train]
    paths = list(dict.fromkeys([*train, *(record.path for record in (*dataset.val, *dataset.test_images))]))
    missing = [path for path in paths if path not in named]
    if missing:
        raise ReIDError(
            f"{dataset.name}: {len(missing)} of {len(paths)} images have no source: {some(missing, 3)}. Name one for "
            "each image, or for none."
        )
    first = sorted({named[path] for path in train})
    ordered = [*first, *sorted({named[path] for path in paths} - set(first))]
    numbers = {name: number for number, name in enumerate(ordered)}
    return SourceReader({path: numbers[named[path]] for path in paths}, len(first))

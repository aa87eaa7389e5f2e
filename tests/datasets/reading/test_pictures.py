"""Batches of 8-bit pixels: on arrival they are what the transform makes of each picture, to the bit."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets.bases import Record
from datasets.preprocessing import test_transform as plain_transform
from datasets.preprocessing import train_transform
from datasets.reading.images import ImageDataset
from datasets.reading.pictures import collate
from datasets.sampler import SeededIndex
from tests.datasets.pictures import pixels

MEAN, STD, SIZE = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25], (24, 16)
DRAWS = [SeededIndex(number % 3, seed) for number, seed in enumerate(range(12))]
OPTIONS = {
    "noise": {},
    "always, all of it nearly": {"erasing": 1.0, "erasing_area": 0.99},
    "mean": {"erasing": 0.8, "erasing_value": "mean"},
    "values": {"erasing": 0.8, "erasing_value": (0.1, -0.2, 0.3)},
    "cutout on the mean": {"erasing": 1.0, "erasing_value": "mean", "cutout": 0.7, "cutout_side": 9},
    "nothing": {"erasing": 0.0},
}


def data(transform):
    records = [Record(str(number), number, 0, 0) for number in range(3)]
    return ImageDataset(records, transform, lambda path: Image.fromarray(pixels(int(path), *SIZE)))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_arrives_as_the_transform_makes_each_picture(name, workers):
    transform = train_transform(SIZE, MEAN, STD, padding=3, **OPTIONS[name])
    images = data(transform)
    batches = [DRAWS[:7], DRAWS[7:]]
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=collate)
    arrived = torch.cat([batch["images"].to("cpu") for batch in loader])
    assert arrived.shape == (12, 3, *SIZE) and arrived.dtype == torch.float32 and arrived.is_contiguous()
    for draw, image in zip(DRAWS, arrived, strict=True):
        random.seed(draw.seed)
        torch.manual_seed(draw.seed)
        assert torch.equal(image, transform(images.read(images.records[draw.index].path)))


def test_a_batch_is_a_quarter_of_its_images():
    images = data(train_transform(SIZE, MEAN, STD, erasing=0.0))
    batch = collate([images[draw] for draw in DRAWS])
    assert len(batch["images"]) == 12 and batch["labels"].tolist() == [0, 1, 2] * 4
    assert len(pickle.dumps(batch["images"].pixels.numpy())) < 1.2 * 12 * 3 * 24 * 16


def test_arriving_changes_nothing_that_arrives_again():
    images = data(train_transform(SIZE, MEAN, STD, erasing=1.0))
    batch = collate([images[draw] for draw in DRAWS])["images"]
    assert torch.equal(batch.to("cpu"), batch.to("cpu"))


def test_pixels_are_normalised_as_in_float64():
    images = data(plain_transform(SIZE, MEAN, STD))
    found = images[1]["images"].to("cpu")[0].double().numpy()
    levels = np.asarray(images.read("1")).transpose(2, 0, 1) / 255
    assert np.abs(found - (levels - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))).max() < 1e-6

"""Small real image files, and configurations of the data set ``hand`` on them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from configs import load_config

SIDE = 16
TRAIN = {"ann": 3, "ben": 2, "cem": 4, "dee": 2}
"""Training identities of :func:`plant_hands` and how many photos each has."""


def pixels(seed, height=SIDE, width=SIDE):
    """Random 8-bit colours [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, image, **options):
    """Save an image or array, making its folder; the path as text."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return str(path)


def plant_hands(root, train=TRAIN):
    """A folder of hands: ``train``, and two test people with one query and two gallery photos each."""
    names = [f"train/{name}/{i}.png" for name, count in train.items() for i in range(count)]
    names += [f"test/query/{name}/q.png" for name in ("xi", "yo")]
    names += [f"test/gallery/{name}/g{i}.png" for name in ("xi", "yo") for i in range(2)]
    for seed, name in enumerate(names):
        save(root / name, pixels(seed))
    return root


def hand_config(root, *pairs):
    """A frozen configuration for tiny images of the data set ``hand``, with ``KEY, VALUE`` pairs on top."""
    base = {
        "DATASETS.NAMES": "hand",
        "DATASETS.ROOT_DIR": str(root),
        "INPUT.SIZE_TRAIN": f"[{SIDE}, {SIDE}]",
        "INPUT.SIZE_TEST": f"[{SIDE}, {SIDE}]",
        "INPUT.PADDING": "2",
        "DATALOADER.SAMPLER": "softmax_triplet",
        "DATALOADER.NUM_INSTANCE": "2",
        "DATALOADER.NUM_WORKERS": "0",
        "SOLVER.STAGE2.IMS_PER_BATCH": "4",
        "TEST.IMS_PER_BATCH": "4",
    } | dict(zip(pairs[::2], pairs[1::2], strict=True))
    return load_config(None, [str(word) for pair in base.items() for word in pair])[0]


def tensors(batch):
    """A loader's batch on the CPU: images [B, 3, H, W], then the others in their order."""
    return [batch["images"].to("cpu"), *list(batch.values())[1:]]


def whole(loader):
    """Images, labels, cameras, views and indices of all batches."""
    return [torch.cat(part) for part in zip(*map(tensors, loader), strict=True)]

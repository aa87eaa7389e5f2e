"""A folder of made-up "hands" for tests of whole runs: identities differ in colour, all else is random."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 32


def toy_hand(hue: float, rng: np.random.Generator, clutter: float) -> Image.Image:
    """A square of the identity's hue on a grey ground, under stripes and noise of the picture's own."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    angle, pitch, phase = rng.uniform(0, np.pi), rng.uniform(2, 6), rng.uniform(0, 1)
    stripes = np.sin(2 * np.pi * (pitch * (np.cos(angle) * rows + np.sin(angle) * columns) + phase))
    pixels = np.full((SIZE, SIZE, 3), rng.uniform(0.2, 0.8))
    top, left = rng.integers(0, SIZE // 3, 2)
    pixels[top : top + SIZE * 2 // 3, left : left + SIZE * 2 // 3] = colorsys.hsv_to_rgb(hue, 0.6, 0.8)
    pixels = pixels * rng.uniform(0.7, 1.2) + clutter * stripes[..., None] + rng.normal(0, 0.1, pixels.shape)
    return Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8))


def make_toy_hands(
    root: Path, train_ids: int = 6, test_ids: int = 4, images: int = 4, clutter: float = 0.1, seed: int = 0
) -> Path:
    """Write ``train/<id>``, ``test/query/<id>`` (two images) and ``test/gallery/<id>`` under ``root``.

    Train and test hues interleave on the colour circle, so that no test identity is one of training.
    """
    rng = np.random.default_rng(seed)
    for who in range(train_ids + test_ids):
        hue = who / (train_ids + test_ids)
        is_test = who * test_ids // (train_ids + test_ids) != (who + 1) * test_ids // (train_ids + test_ids)
        folders = ["test/query"] * 2 + ["test/gallery"] * (images - 2) if is_test else ["train"] * images
        for number, folder in enumerate(folders):
            path = root / folder / f"person{who:02d}" / f"photo{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            toy_hand(hue, rng, clutter).save(path)
    return root


SMALL = """
MODEL: {NAME: %(name)s, PRETRAIN_CHOICE: random, DEVICE: cpu, ID_LOSS_WEIGHT: 1.0}
INPUT: {SIZE_TRAIN: [32, 32], SIZE_TEST: [32, 32], PADDING: 2}
DATASETS: {NAMES: hand, ROOT_DIR: %(root)s}
DATALOADER: {SAMPLER: softmax_triplet, NUM_INSTANCE: 2, NUM_WORKERS: 0}
SOLVER:
  PRECISION: fp32
  STAGE1: {IMS_PER_BATCH: 16, MAX_EPOCHS: 1, WARMUP_EPOCHS: 0, CHECKPOINT_PERIOD: 100}
  STAGE2: {IMS_PER_BATCH: 8, BASE_LR: 0.001, MAX_EPOCHS: 1, WARMUP_ITERS: 0, CHECKPOINT_PERIOD: 100, EVAL_PERIOD: 100}
TEST: {NECK_FEAT: before, IMS_PER_BATCH: 16, PICTURES: %(pictures)s}
OUTPUT_DIR: %(output)s
"""


def write_config(root: Path, output: Path, name: str = "ViT-Tiny-16", pictures: bool = False) -> Path:
    """A configuration beside ``output`` for a run of a second on the hands in ``root``; pictures take two more."""
    file = output.parent / f"{output.name}.yml"
    file.write_text(SMALL % {"name": name, "root": root, "output": output, "pictures": pictures}, encoding="utf-8")
    return file

"""Cases 13 to 15: checkpoint names, pixel values, the identity sampler."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision import transforms

from datasets.preprocessing import test_transform as plain_transform
from datasets.preprocessing import train_transform
from datasets.reading.images import read_image
from datasets.sampler import PKBatchSampler
from model.clip.model import make_image_encoder
from model.clip.shapes import named_shape
from model.methods.baseline import SideInformation
from model.methods.clipreid import CLIPReID
from tests.parity.kit import CASES, assert_agrees, case, index

SCHEMA = json.loads((CASES / "13_checkpoint_schema.json").read_text())
SAMPLERS = json.loads((CASES / "15_samplers.json").read_text())["examples"]


def expected(variant):
    """Ordered [name, shape, dtype] of a variant, which may be stored as its difference to another."""
    stored = SCHEMA[variant]
    if "state_dict" in stored:
        return stored["state_dict"]
    different = {name: [name, shape, dtype] for name, shape, dtype in stored["different"]}
    assert not stored["added"]
    return [different.get(e[0], e) for e in SCHEMA[stored["same_as"]]["state_dict"] if e[0] not in stored["missing"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "name", "side", "stride"),
    [
        ("vit_sie_off", "ViT-B-16", None, None),
        ("vit_sie_camera", "ViT-B-16", SideInformation(6, 0, 1.0), None),
        ("vit_sie_camera_stride12", "ViT-B-16", SideInformation(6, 0, 1.0), (12, 12)),
        ("rn50", "RN50", None, None),
    ],
)
def test_checkpoint_has_the_published_names_and_shapes(variant, name, side, stride):
    backbone = make_image_encoder(named_shape(name), (256, 128), stride)
    sentence = "A photo of a X X X X person."
    model = CLIPReID(backbone, 751, text=backbone.text, sentence=sentence, side_information=side)
    found = [[n, list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in model.checkpoint().items()]
    assert found == expected(variant)  # in this order, too: optimizer states depend on it
    parameters = sum(torch.Size(shape).numel() for _, shape, dtype in expected(variant))
    assert sum(t.numel() for t in model.checkpoint().values()) == parameters


IMAGES = ["img0_64x128_rgb", "img1_97x211_gray", "img2_300x180_rgba"]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("config", ["vit", "cnn", "vit256"])
def test_pixels(config, image):
    name, golden = "14_data", case("14_data")
    size = index()[name]["meta"][config]["size"]
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if config == "cnn" else ([0.5] * 3, [0.5] * 3)
    picture = read_image(CASES / "images" / f"{image}.png")
    resize, *_ = plain_transform(size, mean, std).transforms
    train_resize, *_ = train_transform(size, mean, std).transforms
    key = f"{config}.{image}"
    for stored, found in (("val", resize(picture)), ("train", train_resize(picture))):
        if f"{key}.{stored}_resized_uint8" in golden:
            off = np.abs(np.asarray(found).astype(int) - golden[f"{key}.{stored}_resized_uint8"])
            assert off.max() <= 1  # one grey level on a few pixels: another Pillow
            assert (off > 0).mean() < 1e-3
    pixels = plain_transform(size, mean, std)(picture)
    one_level = 2 / 255 / min(std)
    crop = golden[f"{key}.val_crop"]
    assert np.abs(pixels[:, 100:116, 40:56].numpy() - crop).max() < one_level
    assert_agrees(name, f"{key}.val_mean", pixels.mean((1, 2)), factor=10)
    assert_agrees(name, f"{key}.val_std", pixels.std((1, 2), unbiased=False), factor=10)


def test_train_transform_order():
    steps = train_transform([256, 128], [0.5] * 3, [0.5] * 3).transforms
    assert [type(s).__name__ for s in steps] == [
        "Resize",
        "RandomHorizontalFlip",
        "Pad",
        "RandomCrop",
        "ToTensor",
        "Normalize",
        "RandomErasing",
    ]
    golden = index()["14_data"]["meta"]["vit"]["random_erasing"]
    for key in ("probability", "min_area", "max_area", "min_count", "max_count", "per_pixel"):
        if hasattr(steps[-1], key):
            assert getattr(steps[-1], key) == golden[key], key
    assert steps[0].interpolation is transforms.InterpolationMode.BICUBIC


@pytest.mark.parametrize("example", SAMPLERS, ids=lambda e: f"B{e['batch']}K{e['instances']}")
def test_identity_sampler(example):
    instances, batch = example["instances"], example["batch"]
    pids = [int(pid) for pid, count in example["counts"].items() for _ in range(count)]
    count = Counter(pids)
    sampler = PKBatchSampler(pids, batch, instances, seed=3)
    yielded = []
    for epoch in range(1, 301):
        sampler.set_epoch(epoch)
        batches = [[draw.index for draw in one] for one in sampler]
        assert len(batches) == len(sampler)
        flat = [i for one in batches for i in one]
        yielded.append(len(flat))
        for one in batches:
            assert len(one) == example["samples_per_batch"]
            blocks = [one[i : i + instances] for i in range(0, len(one), instances)]
            owners = [{pids[i] for i in block} for block in blocks]
            assert all(len(owner) == 1 for owner in owners)
            assert len(set.union(*owners)) == len(blocks)
        repeated = [i for i, times in Counter(flat).items() if times > 1]
        assert all(count[pids[i]] < instances for i in repeated)
    assert example["indices_yielded_min"] <= min(yielded)
    assert max(yielded) <= example["indices_yielded_max"]
    assert abs(np.mean(yielded) - example["indices_yielded_mean"]) < 0.05 * example["indices_yielded_mean"]

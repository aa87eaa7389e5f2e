"""Key points move with the pictures: a white mark is where the geometry of the same draws puts it."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.bases import Record
from datasets.fields.geometry import AUGMENTATION, PointReader, geometry, point_reader
from datasets.fields.textures import texture_reader
from datasets.parsing.keypoints import KeyPointFile, KeyPoints
from datasets.preprocessing import test_transform as plain_transform
from datasets.preprocessing import train_transform
from datasets.reading.images import ImageDataset
from datasets.sampler import SeededIndex
from model.layers.warp import warped_labels
from utils.errors import ReIDError
from utils.images import Reading

ZERO, ONE = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
WIDTH, HEIGHT = 90, 70


def marked(x, y):
    """A picture with a white square around a point, and its smooth edges."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[y - 3 : y + 3, x - 3 : x + 3] = 255
    return Image.fromarray(picture)


def centre(image):
    weight = image[0].numpy()
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"translation": 0.5},
        {"rotation": 25.0},
        {"jitter": 0.2, "resize": (70, 60)},
        {"jitter": 0.2, "jitter_first": True, "translation": 1.0, "rotation": 10.0, "padding": 4},
        {"grey": 0.5, "jitter": (0.1, 0.1, 0.1, 0.1), "jitter_probability": 0.5, "rotation": 10.0},
        {"fit": "letterbox", "resize": (70, 60), "rotation": 10.0},
    ],
    ids=str,
)
def test_points_go_where_the_pixels_go(options):
    transform = train_transform((64, 48), ZERO, ONE, erasing=0.0, **options)
    mirrored = 0
    for seed in range(25):
        torch.manual_seed(seed)
        random.seed(seed)
        found = transform(marked(40, 30))
        torch.manual_seed(seed)
        at, size = geometry(transform.transforms, (WIDTH, HEIGHT))
        assert size == (48, 64)
        expected = at @ [40, 30, 1]
        assert np.abs(centre(found) - expected[:2]).max() < 0.35, seed
        mirrored += np.linalg.det(at) < 0
    assert 5 < mirrored < 20


def reader(points, count=17, **reading):
    entry = KeyPoints(np.array(points, float), np.linspace(0.5, 1, count), 1.0, size=(WIDTH, HEIGHT))
    return PointReader(KeyPointFile(count, {"a": entry}), Reading(**reading))


def test_loaders_give_key_points_of_the_picture_they_give():
    points = np.full((17, 2), np.nan)
    points[5], points[6], points[7] = (40, 30), (WIDTH, 10), (40, 30)
    transform = train_transform((64, 48), ZERO, ONE, erasing=0.0)
    images = ImageDataset([Record("a", 0, 0, 0)], transform, lambda path: marked(40, 30), {"keypoints": reader(points)})
    swaps = 0
    for seed in range(20):
        item = images[SeededIndex(0, seed)]
        found = item["keypoints"].numpy()
        assert found.shape == (17, 3) and not found[[0, 1, 9, 16], 2].any()
        left = 5 if found[8, 2] == 0 else 6  # a mirrored left shoulder is a right one
        swaps += left == 6
        assert np.abs(found[left, :2] - centre(item["images"].to("cpu")[0])).max() < 0.35
        assert found[left, 2] == np.float32(np.linspace(0.5, 1, 17)[5])
    assert 4 < swaps < 16
    still = ImageDataset(images.records, plain_transform((35, 45), ZERO, ONE), images.read, images.fields)[0]
    assert still["keypoints"][5].tolist() == pytest.approx([20, 15, np.linspace(0.5, 1, 17)[5]])


def test_boxes_and_mirrored_pictures():
    points = np.full((21, 2), np.nan)
    points[3], points[4] = (40, 30), (5, 5)
    read = reader(points, 21, boxes={"a": (20, 10, 40, 50)}, mirrored={"a"})
    found = read("a", plain_transform((50, 40), ZERO, ONE).transforms, (40, 50))
    assert found[3, :2].tolist() == [20, 20], "a finger stays the same finger"
    assert found[3, 2] > 0 and found[4, 2] == 0, "outside of the box"


@pytest.mark.parametrize("mirrored", [False, True])
def test_points_in_a_letterbox(mirrored):
    """Whether the picture comes whole or from the cache, which has its border already."""
    points = np.full((21, 2), np.nan)
    points[3] = (40, 30)
    transform = plain_transform((64, 48), ZERO, ONE, fit="letterbox")
    whole = marked(40, 30).transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else marked(40, 30)
    read = reader(points, 21, mirrored={"a"} if mirrored else set())
    for picture in (whole, transform.transforms[0](whole)):
        found = read("a", transform.transforms, picture.size)
        assert np.abs(found[3, :2].numpy() - centre(transform(picture))).max() < 0.2 and found[3, 2] > 0


def test_files_that_do_not_serve_are_refused(tmp_path):
    records = [Record(str(tmp_path / f"{name}.png"), 0, 0, 0) for name in "ab"]
    dataset = SimpleNamespace(
        root=tmp_path, name="hands", require_train=True, train=records, val=[], test_images=[], reading=Reading()
    )
    file = tmp_path / "points.csv"
    cfg = SimpleNamespace(DATASETS=SimpleNamespace(KEYPOINTS=str(file)))
    with pytest.raises(ReIDError, match=r"KEYPOINTS.*no such file"):
        point_reader(cfg, dataset, 21)
    header = ",".join(["path", *(f"{axis}{i}" for i in range(21) for axis in "xy")])
    file.write_text(f"{header}\na.png,{','.join('1' * 42)}\n")
    with pytest.raises(ReIDError, match=r"has 21 points an image, but MODEL.HOREID.POINTS = 17. Set it to 21"):
        point_reader(cfg, dataset, 17)
    with pytest.raises(ReIDError, match=r"lacks 1 of 2 images: .*b.png. Add them"):
        point_reader(cfg, dataset, 21)
    file.write_text(f"{header}\na.png,{','.join('1' * 42)}\nb.png,{',' * 41}\n")
    assert point_reader(cfg, dataset, 21).file.count == 21


CELL, CELLS = 9, (8, 6)


def test_labels_of_cells_follow_the_augmentation():
    """A picture of cells of one colour each: the colour at the middle of each cell is the label that it gets."""
    labels = torch.arange(1, 49).view(1, *CELLS)
    picture = Image.fromarray((5 * labels[0]).numpy().astype(np.uint8).repeat(CELL, 0).repeat(CELL, 1)).convert("RGB")
    transform = train_transform(picture.size[::-1], ZERO, ONE, erasing=0.6, padding=7)
    erased = 0
    for seed in range(40):
        item = ImageDataset([Record("a", 0, 0, 0)], transform, lambda _: picture, AUGMENTATION)[SeededIndex(0, seed)]
        found = warped_labels(labels, item["geometry"][None], item["erased"][None])[0]
        colours = (item["images"].to("cpu")[0] * 255)[:, CELL // 2 :: CELL, CELL // 2 :: CELL]
        kept = (colours - colours[:1]).abs().amax(0) < 1e-3  # noise has three values
        assert torch.equal(torch.where(kept, (colours[0] / 5).round().long(), 0), found), seed
        erased += bool(item["erased"].any())
    assert 10 < erased < 35


def test_textures_stand_beside_the_images(tmp_path):
    records = []
    for name in ("a", "b"):
        (tmp_path / "hands" / name).mkdir(parents=True)
        records.append(Record(str(tmp_path / "hands" / name / "1.jpg"), 0, 0, 0))
    (tmp_path / "textures" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8), (0, 255, 0)).save(tmp_path / "textures" / "a" / "1.png")
    keys = SimpleNamespace(TEXTURES=str(tmp_path / "textures"), ROOT_DIR=str(tmp_path / "hands"))
    model = SimpleNamespace(SAN=SimpleNamespace(DOUBLE_WIDTH=True))
    cfg = SimpleNamespace(DATASETS=keys, INPUT=SimpleNamespace(SIZE_TRAIN=[32, 16]), MODEL=model)
    with pytest.raises(ReIDError, match=r"lacks 1 of 2 training images: .*b.1.jpg.*\.png"):
        texture_reader(cfg, SimpleNamespace(train=records))
    texture = texture_reader(cfg, SimpleNamespace(train=records[:1]))(records[0].path, (), (9, 9))
    assert texture.shape == (3, 32, 32) and texture[1].unique().tolist() == [1] and texture[0].unique().tolist() == [-1]
    keys.TEXTURES = str(tmp_path / "none")
    with pytest.raises(ReIDError, match=r"none.*no such folder"):
        texture_reader(cfg, SimpleNamespace(train=records))

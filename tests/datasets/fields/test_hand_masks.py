"""Masks from key points: on drawn hands, whose true points are known."""

import numpy as np
import pytest

from configs import load_config
from datasets import make_dataset
from datasets.caches.point_cache import find_all
from datasets.fields.hand_masks import hand_mask, hand_masks
from datasets.parsing.keypoints import read_keypoints
from datasets.synthetic_hand.dataset import SyntheticHand
from processor.testing.biometrics import check_performance
from utils.errors import ReIDError

SIZE = 128


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    SyntheticHand(folder, train_identities=2, test_identities=2, images_per_identity=4, size=SIZE)
    return folder


def drawn(root, *keys):
    small = ("TRAIN_IDS", "2", "TEST_IDS", "2", "IMAGES_PER_ID", "4", "SIZE", str(SIZE))
    pairs = [f"DATASETS.SYNTHETIC.{word}" if i % 2 == 0 else word for i, word in enumerate(small)]
    mask = ("TEST.POINTS", "all", "TEST.POINTS_MASK", "True", "DATALOADER.NUM_WORKERS", "0")
    cfg, _ = load_config(
        None, ["DATASETS.NAMES", "synthetic_hand", "DATASETS.ROOT_DIR", str(root), *pairs, *mask, *keys]
    )
    return cfg, make_dataset(cfg)


def test_a_mask_covers_the_points_and_not_the_corners(root):
    _, dataset = drawn(root)
    for found in read_keypoints(f"{dataset.root}/keypoints.csv").images.values():
        mask = hand_mask(found.points, found.size)
        assert mask.shape == (SIZE, SIZE) and 0.1 < mask.mean() < 0.6
        inside = found.points[((found.points >= 0) & (found.points < SIZE)).all(1)].astype(int)
        assert mask[inside[:, 1], inside[:, 0]].all()
        assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_a_mirrored_hand_has_the_mirrored_mask():
    points = np.random.default_rng(0).uniform(20, 80, (21, 2))
    mirrored = points * [-1, 1] + [100, 0]
    assert (hand_mask(points, (100, 90))[:, ::-1] != hand_mask(mirrored, (100, 90))).mean() < 0.02


def test_all_points_of_a_test_lie_on_the_hand(root):
    pytest.importorskip("cv2")
    cfg, dataset = drawn(root)
    paths = [record.path for record in dataset.test_images]
    masks, reader = hand_masks(cfg, dataset), find_all(cfg, paths, dataset)
    whole = find_all(drawn(root, "TEST.POINTS_MASK", "False")[0], paths, dataset)
    left_out = 0
    for path in paths:
        mask = masks(path, (SIZE, SIZE))
        if mask is None:  # a fingertip outside of the picture
            assert np.array_equal(reader.read(path).places, whole.read(path).places)
            continue
        x, y = (reader.read(path).places * SIZE).astype(int).T
        assert len(x) and mask[y, x].all()
        x, y = (whole.read(path).places * SIZE).astype(int).T
        left_out += int((~mask[y, x]).sum())
    assert left_out, "the tables have points of their own"


def test_what_cannot_work_is_refused(root, tmp_path):
    with pytest.raises(ReIDError, match=r"POINTS_MASK without TEST\.POINTS"):
        load_config(None, ["TEST.POINTS_MASK", "True"])
    person = tmp_path / "person.csv"
    columns = ",".join(f"{axis}{i}" for i in range(17) for axis in "xy")
    cfg, dataset = drawn(root, "DATASETS.KEYPOINTS", str(person))
    name = dataset.test_images[0].path.removeprefix(str(dataset.root)).strip("/")
    person.write_text(f"path,{columns}\n{name}{',5' * 34}\n")
    with pytest.raises(ReIDError, match=r"21 points of a hand; DATASETS\.KEYPOINTS has 17"):
        check_performance(cfg, dataset)  # before anything is computed

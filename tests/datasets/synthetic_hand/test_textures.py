"""Textures of drawn hands: each place of the skin has its pixel, and san finds a picture for each training image."""

from pathlib import Path

import numpy as np
import pytest

from configs import load_config
from datasets import make_dataset
from datasets.fields.textures import texture_reader
from datasets.synthetic_hand import textures
from datasets.synthetic_hand.anatomy import THUMB, average_shape, flat_pose
from datasets.synthetic_hand.dataset import identity_hand
from datasets.synthetic_hand.drawing import draw_texture
from utils.errors import ReIDError

SIZE = 48
GREY = 128
HANDS = [identity_hand(0, number) for number in range(4)]


def test_all_hands_have_one_outline_and_skins_of_their_own():
    drawn = np.stack([draw_texture(hand, SIZE) for hand in HANDS]).astype(int)
    assert drawn.shape == (4, SIZE, 2 * SIZE, 3)
    # Behind the outline's soft edge.
    outside = (drawn == GREY).all(3)
    sure = np.abs(drawn - GREY).max(3) > 40
    for one in outside:
        assert not (one & sure.any(0)).sum() > 0.02 * one.size
    assert 0.2 < outside[0].mean() < 0.8
    left, right = outside[0][:, :SIZE], outside[0][:, SIZE:]
    assert (left != right).mean() < 0.02, "back and palm lie alike"
    for i in range(3):
        assert np.abs(drawn[i] - drawn[i + 1]).mean() > 3


def test_the_skin_lies_alike_on_left_and_right_hands():
    assert {hand.right for hand in HANDS} == {True, False}
    points = [flat_pose(shape).key_points(shape, SIZE) for shape in map(average_shape, HANDS)]
    assert all(np.array_equal(found, points[0]) for found in points)
    assert (points[0] >= 0).all() and (points[0] <= SIZE).all()
    assert points[0][1 + 4 * THUMB + 3, 0] < points[0][-1, 0]


SMALL = {"TRAIN_IDS": 2, "TEST_IDS": 1, "IMAGES_PER_ID": 2, "SIZE": 32}


def words(tmp_path, *more):
    keys = f"DATASETS.NAMES synthetic_hand DATASETS.ROOT_DIR {tmp_path}/drawn DATASETS.TEXTURES {tmp_path}/textures"
    drawing = [word for key, value in SMALL.items() for word in (f"DATASETS.SYNTHETIC.{key}", str(value))]
    return [*keys.split(), *drawing, "INPUT.SIZE_TRAIN", "[32, 32]", "INPUT.SIZE_TEST", "[32, 32]", *more]


def config(tmp_path, *more):
    return load_config(None, words(tmp_path, *more))[0]


def test_each_training_image_gets_the_texture_of_its_hand(tmp_path):
    recipe = Path(textures.__file__).parents[2] / "configs/hand/compare/cnn/san.yml"
    assert textures.main(["--config_file", str(recipe), *words(tmp_path)]) == 0
    assert len(list((tmp_path / "textures").rglob("*.png"))) == 4
    cfg = config(tmp_path)
    assert textures.write_textures(cfg) == 0
    dataset = make_dataset(cfg)
    reader = texture_reader(cfg, dataset)
    found = {record.path: reader(record.path, [], (32, 32)) for record in dataset.train}
    for record in dataset.train:
        expected = draw_texture(identity_hand(0, record.pid), 32).transpose(2, 0, 1) / 127.5 - 1
        np.testing.assert_allclose(found[record.path], expected, atol=1e-6)


def test_photographs_have_no_drawn_texture(tmp_path):
    with pytest.raises(ReIDError, match=r"DATASETS.NAMES = hand .*drawn hands alone"):
        textures.write_textures(config(tmp_path, "DATASETS.NAMES", "hand"))
    with pytest.raises(ReIDError, match=r"DATASETS.TEXTURES = ''.*name a folder"):
        textures.write_textures(config(tmp_path, "DATASETS.TEXTURES", ""))

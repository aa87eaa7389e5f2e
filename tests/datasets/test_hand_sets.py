"""The recipes of published hand sets: identities, people, sessions and the protocols' counts."""

import os
from collections import Counter
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from configs import load_config
from datasets import check_data, make_dataset
from tests.datasets.pictures import pixels, save
from tests.datasets.set_names import SETS

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "hand" / "sets"


def read(name, root, *pairs, require_train=False):
    cfg, _ = load_config(RECIPES / f"{name}.yml", ["DATASETS.ROOT_DIR", str(root), *pairs])
    return cfg, make_dataset(cfg, require_train)


@cache
def whole(name, *pairs):
    """A recipe on all names of its set; no file is there."""
    with patch("datasets.pattern.images_below", lambda root: (sorted(SETS[name].names()), [])):
        return read(name, RECIPES, *pairs)[1]


def test_every_recipe_is_tested():
    assert {path.stem for path in RECIPES.glob("*.yml")} == SETS.keys()


@pytest.mark.parametrize("name", SETS)
def test_counts(name):
    facts, data = SETS[name], whole(name)
    note = next(note for note in data.notes if note.startswith("DATASETS.PATTERN: "))
    people = "whose person the names do not say" if facts.people is None else f"and {facts.people} people"
    assert f"{facts.images} images of {facts.identities} identities" in note and people in note
    assert (data.num_train_pids, len(data.train)) == facts.train
    assert (len(data.query), len(data.gallery)) == (facts.query, facts.gallery)
    assert data.num_cameras == facts.cameras and all(data.has_positive())
    trained, tested = ({data.person(r) for r in part} for part in (data.train, data.test_images))
    if data.protocol == "closed":
        assert set(data.test_identities) == set(data.train_identities)
        assert {r.path for r in data.gallery} == {r.path for r in data.train}
    elif facts.people is not None:
        assert not trained & tested
    if data.protocol in ("all_pairs", "fvc"):
        assert data.query == data.gallery


def genuine(data):
    """Genuine and impostor comparisons of every query with the whole gallery."""
    enrolled = Counter(record.pid for record in data.gallery)
    same = sum(enrolled[record.pid] for record in data.query)
    return same, len(data.query) * len(data.gallery) - same


def test_published_comparisons():
    assert genuine(whole("vera_finger")) == (220, 48_180)
    assert genuine(whole("put_vein")) == (25 * 4 * 8, 25 * 24 * 4 * 8)
    assert genuine(whole("tongji"))[0] == 600 * 10 * 10
    fingers = Counter(r.pid for r in whole("mmcbnu").query)
    assert len(fingers) == 300 and sum(n * (n - 1) // 2 for n in fingers.values()) == 13_500
    hands = Counter(r.pid for r in whole("bosphorus").query)
    assert len(hands) == 50 and sum(n * (n - 1) // 2 for n in hands.values()) == 3_300


def test_other_protocols_of_the_comments():
    across = ("DATASETS.KEEP", "{}", "DATASETS.ENROL", "{camera: 460, sample: 1-3}")
    bands = whole("casia_multispectral", *across, "DATASETS.PROBE", "{camera: 850, sample: 4-6}")
    assert (len(bands.gallery), len(bands.query)) == (300, 300) and bands.num_cameras == 6
    lights = whole(
        "plusvein_fv3",
        *("DATASETS.KEEP", "{view: PALMAR}", "DATASETS.PROTOCOL", "open"),
        *("DATASETS.ENROL", "{camera: LED}", "DATASETS.PROBE", "{camera: Laser}"),
    )
    assert (len(lights.gallery), len(lights.query)) == (900, 900)
    both = whole("put_vein", "DATASETS.KEEP", "{view: Palm}")
    assert len(both.test_identities) == 50 and (len(both.gallery), len(both.query)) == (200, 400)


@pytest.mark.parametrize("name", SETS)
def test_small_pictures(name, tmp_path):
    """The first and the last two people of each set as files that are read, checked and split."""
    facts = SETS[name]
    picture = save(tmp_path / "picture.png", pixels(0, 8, 8))
    names = sorted(facts.names())
    for path in (*names[:40], *names[-40:]):
        (tmp_path / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(picture, tmp_path / "set" / path)
    keys = ["DATASETS.TRAIN", "none", "DATASETS.KEEP", "{}", "DATASETS.PROTOCOL", "all_pairs", "DATASETS.ENROL", ""]
    cfg, data = read(name, tmp_path / "set", *keys, "DATASETS.PROBE", "", "DATALOADER.NUM_WORKERS", "0")
    check_data(cfg, data)
    left_out = 40 if name == "veindeep" else 0
    assert len(data.query) == 80 - left_out and not any("cannot be read" in note for note in data.notes)

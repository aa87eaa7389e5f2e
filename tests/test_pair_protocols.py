"""All against all, FVC and a list of pairs through test_clipreid.py on drawn hands, against loops over the features."""

import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets.synthetic_hand.dataset import identity_hand
from datasets.synthetic_hand.drawing import draw_hand
from processor import load_embedder
from tests.scripts import evaluate, train
from tests.toy_hands import write_config

PEOPLE, IMAGES, COPIED = 7, 4, "006_1.png"
TESTED = range(3, PEOPLE + 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Seven people, two of whom train; the last image of person 6 is a copy of the first."""
    base = tmp_path_factory.mktemp("pairs")
    (base / "hands").mkdir()
    for person, image in itertools.product(range(1, PEOPLE + 1), range(1, IMAGES + 1)):
        pixels = draw_hand(identity_hand(0, person), "palmar", np.random.default_rng([person, image]), 32)
        Image.fromarray(pixels).save(base / "hands" / f"{person:03d}_{image}.png")
    shutil.copy(base / "hands" / COPIED, base / "hands" / f"006_{IMAGES}.png")
    file = write_config(base / "hands", base / "run")
    text = file.read_text().replace("NAMES: hand,", f"NAMES: pattern, PATTERN: '{PATTERN}', TRAIN: '{{person: 1-2}}',")
    file.write_text(text)
    train(file, "SOLVER.STAGES", "[2]", "MODEL.METHOD", "baseline", "SOLVER.STAGE2.IMS_PER_BATCH", 4, *ALL)
    return base


LISTED = ["003_1 003_2", "004_1 004_3", "005_1 003_1", "004_2 005_4"]
ALL = ["DATASETS.PROTOCOL", "all_pairs"]
PATTERN = r"(?P<person>\d{3})_(?P<sample>\d)\.png"


def evaluated(trained, folder, protocol, *words):
    """Results of the command, and similarities [N, N] and people of the test images by file name."""
    base = trained
    (weight,) = (base / "run").glob("*_1.pth")
    keys = ["TEST.WEIGHT", weight, "TEST.BOOTSTRAP", 50]
    evaluate(base / "run" / "config.yml", *keys, "OUTPUT_DIR", folder, "DATASETS.PROTOCOL", protocol, *words)
    row = json.loads((folder / "metrics.json").read_text())["results"]["test"]
    paths = sorted(path for path in (base / "hands").glob("*.png") if int(path.name[:3]) in TESTED)
    features = load_embedder(folder / "config.yml", weight).embed(paths).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return row, {path.name: i for i, path in enumerate(paths)}, features @ features.T


def area(genuine, impostor):
    genuine, impostor = np.array(genuine)[:, None], np.array(impostor)
    return ((genuine > impostor) + (genuine == impostor) / 2).mean()


def check(row, place, scores, pairs):
    """Numbers of pairs and the area under the ROC, of ``pairs`` of file names."""
    by_kind = {True: [], False: []}
    for a, b in pairs:
        by_kind[is_genuine(a, b)].append(scores[place[a], place[b]])
    found = row["verification"]
    assert (found["genuine pairs"], found["impostor pairs"]) == (len(by_kind[True]), len(by_kind[False]))
    assert found["AUC"] == pytest.approx(area(by_kind[True], by_kind[False]), abs=2 / len(by_kind[False]))
    people = [
        {name[:3] for pair in chosen for name in pair} for chosen in (pairs, [p for p in pairs if is_genuine(*p)])
    ]
    assert found["people with genuine pairs"] == len(people[1]) and found["people"] >= len(people[0])


def is_genuine(a, b):
    return a[:3] == b[:3]


def is_copy(a, b):
    return {a, b} == {COPIED, f"006_{IMAGES}.png"}


def test_all_pairs(trained, tmp_path):
    row, place, scores = evaluated(trained, tmp_path, "all_pairs")
    check(row, place, scores, [pair for pair in itertools.combinations(place, 2) if not is_copy(*pair)])
    assert "each unordered pair of two different images once" in row["verification"]["comparisons"]
    names, right = list(place), []
    for i, name in enumerate(names):
        others = [j for j in range(len(names)) if j != i and not is_copy(name, names[j])]
        right.append(names[max(others, key=lambda j: scores[i, j])][:3] == name[:3])
    assert row["Rank-1"] == pytest.approx(100 * np.mean(right), abs=100 / len(names))
    assert row["Rank-1"] < 100, "no image finds itself"


def test_fvc(trained, tmp_path):
    row, place, scores = evaluated(trained, tmp_path, "fvc")
    genuine = [pair for pair in itertools.combinations(place, 2) if is_genuine(*pair) and not is_copy(*pair)]
    impostor = list(itertools.combinations((f"{person:03d}_1.png" for person in TESTED), 2))
    check(row, place, scores, [*genuine, *impostor])
    assert "FVC2000" in (tmp_path / "biometric_performance.md").read_text()


def test_a_list_of_pairs(trained, tmp_path):
    pairs = [(f"{a}.png", f"{b}.png") for a, b in map(str.split, LISTED)]
    copy = (COPIED, f"006_{IMAGES}.png")
    lines = [f"{a} {b} {int(is_genuine(a, b))}" for a, b in [*pairs, copy, ("003_1.png", "003_1.png")]]
    (trained / "hands" / "pairs.txt").write_text("\n".join(lines))
    row, place, scores = evaluated(trained, tmp_path, "pairs", "DATASETS.PAIRS", "pairs.txt")
    check(row, place, scores, pairs)
    assert "2 of 6 pairs of the protocol are left out" in (tmp_path / "train_log.txt").read_text()

"""Rankings by matched skin detail: on made-up scores against a plain sort, on drawn hands through the whole test."""

import sys

import numpy as np
import pytest
import torch

from configs import load_config
from datasets import make_dataloader, make_dataset
from datasets.caches.point_cache import PointCache, packed, unpacked
from processor import start_run
from processor.testing.evaluation import _evaluate
from processor.testing.local_matching import LocalMatching
from tests.datasets.pictures import hand_config, pixels, save
from utils.errors import ReIDError
from utils.metrics import Features, evaluate_distances
from utils.retrieval.identities import IdentityPairs
from utils.retrieval.local_order import order_by
from utils.retrieval.points import NONE

LABELS = [
    torch.tensor(part) for part in ([0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, -1, 3], [0] * 4, [0, 1, 1, 1, 1, 1, 0, 1, 1])
]
"""Query and gallery identities, query and gallery cameras; identity -1 is junk."""


def table(seed=0, levels=4):
    """Distances and scores [4, 9], scores with many ties."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.random((4, 9), dtype=np.float32)), random.integers(0, levels, (4, 9)).astype(float)


def ordered(distances, scores, nearest, rule="market", beyond=0.0):
    def score(lists):
        return (scores[query, columns] for query, columns in lists)

    pairs = IdentityPairs(*LABELS, rule)
    return order_by(score, "made up", distances.split(3), pairs, nearest, beyond), pairs


@pytest.mark.parametrize("rule", ["none", "market"])
@pytest.mark.parametrize("nearest", [None, 1, 3, 50])
def test_the_order_is_that_of_a_plain_sort(nearest, rule):
    distances, scores = table()
    found, pairs = ordered(distances, scores, nearest, rule)
    places = np.concatenate(list(found.places()))
    ignored = np.zeros((4, 9), bool)
    ignored[tuple(part.numpy() for part in pairs.ignored(0, 4))] = True
    for query in range(4):
        left = sorted(np.flatnonzero(~ignored[query]), key=lambda g: (distances[query, g], g))
        short = left[:nearest]
        expected = sorted(short, key=lambda g: (-scores[query, g], distances[query, g], g)) + left[len(short) :]
        assert np.argsort(places[query])[: len(left)].tolist() == expected
        assert sorted(places[query]) == list(range(9))  # nothing drops out
        assert found.scores[query, short].tolist() == scores[query, short].tolist()
        assert (np.delete(found.scores[query], short) == 0).all()
        top = found.nearest(pairs, 4).index[query].tolist()
        assert top == (expected + [-1] * 4)[:4]


def test_scores_below_the_score_of_the_others_lower_it():
    distances, scores = table()
    found, _ = ordered(distances, scores - 10, 3)
    assert -10 <= found.beyond == found.scores.min() <= -7
    assert found.span == (found.scores.min(), found.scores.max())


def test_equal_scores_leave_the_ranking_of_the_features():
    distances, scores = table()
    found, _ = ordered(distances, 0 * scores, 5)
    wanted = evaluate_distances(distances, *LABELS)
    assert evaluate_distances(found.places(), *LABELS).mAP == wanted.mAP


def test_the_order_of_the_gallery_does_not_matter():
    distances, scores = table(levels=3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    first, _ = ordered(distances, scores, 4, "none")
    labels = LABELS[0], LABELS[1][order], LABELS[2], LABELS[3][order]
    pairs = IdentityPairs(*labels, "none")
    moved = scores[:, order.numpy()]
    second = order_by(lambda lists: (moved[q, c] for q, c in lists), "", [distances[:, order]], pairs, 4)
    assert np.array_equal(np.concatenate(list(first.places()))[:, order], np.concatenate(list(second.places())))


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Three drawn test hands with a query and two gallery photographs each."""
    from tests.utils.retrieval.test_points import hand

    root = tmp_path_factory.mktemp("hands")
    for person in range(3):
        picture = hand(person)
        turned = [picture.rotate(angle, fillcolor=(90, 90, 90)) for angle in (0, 7, -9)]
        for name, image in zip(("query/{}/0", "gallery/{}/1", "gallery/{}/2"), turned, strict=True):
            save(root / "test" / f"{name.format(person)}.png", image)
    return root


def evaluation(root, *pairs):
    kept = ("DATASETS.CACHE", "disk", "DATASETS.CACHE_DIR", str(root.parent / "kept"))  # points are found once
    cfg = hand_config(root, *kept, *pairs)
    dataset = make_dataset(cfg, require_train=False)
    loader = make_dataloader(cfg, dataset).test
    records = loader.dataset.records
    features = torch.nn.functional.normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(0)))
    images = Features(features, *([getattr(r, name) for r in records] for name in ("pid", "camid")))
    return _evaluate(cfg, images, records, dataset, LocalMatching(cfg, dataset, loader), None)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_points_find_drawn_hands_whatever_the_features(hands, workers, monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.setattr("datasets.reading.workers.usable_cores", lambda: 2)
    monkeypatch.setattr("datasets.reading.workers._FEW", 0)
    found = evaluation(hands, "TEST.POINTS", "all", "DATALOADER.NUM_WORKERS", workers)
    assert found.metrics.mAP == found.metrics.rank(1) == 1 and found.verification.eer == 0
    assert found.local.scores.min() >= 0 and found.local.name == found.distance_name == "agreeing points"
    assert 5 < found.verification.eer_threshold < 200  # a count
    nearest = found.find_nearest([0])
    assert (nearest.distances[0, :2] > 30).all() and (nearest.distances[0, 2:6] < 15).all()


def test_a_shortlist_orders_only_the_nearest(hands):
    pytest.importorskip("cv2")
    one = evaluation(hands, "TEST.POINTS", "1")
    assert np.count_nonzero(one.local.scores) <= 3
    plain = evaluate_distances(torch.cdist(one.query.features, one.gallery.features), one.query.pids, one.gallery.pids,
                               one.query.camids, one.gallery.camids, camera_rule=one.camera_rule)  # fmt: skip
    assert one.metrics.mAP == pytest.approx(plain.mAP)
    re_ranked = evaluation(hands, "TEST.POINTS", "6", "TEST.RE_RANKING", "True")
    assert re_ranked.metrics.mAP == 1 and re_ranked.neighbours is not None


def test_phase_correlation_ranks_without_features(hands):
    """Turned by 7 and 9 degrees it is weak."""
    found = evaluation(hands, "TEST.LOCAL", "poc", "INPUT.SIZE_TEST", "[64, 64]", "INPUT.SIZE_TRAIN", "[64, 64]")
    assert found.distance_name == "phase-only correlation"
    assert 0 < found.local.scores.min() < found.local.scores.max() < 1


def test_points_are_found_again_until_the_image_changes(tmp_path):
    pytest.importorskip("cv2")
    from tests.utils.retrieval.test_points import hand

    path = save(tmp_path / "a.png", hand(1))
    found = []

    def cache(*paths):
        new = PointCache([path, *paths], folder=tmp_path / "kept", budget=10**6)
        make = new._packed
        new._packed = lambda p: found.append(p) or make(p)
        return new

    first, again = cache().read(path), cache().read(path)
    assert len(found) == 1 and np.array_equal(first.places, again.places) and len(first.places) > 200
    assert np.array_equal(first.described, again.described)
    save(path, hand(2))
    assert not np.array_equal(cache().read(path).places, first.places) and len(found) == 2
    save(path, pixels(0, 40, 40) * 0)
    assert len(cache().read(path).places) == 0 and len(cache().read(path).places) == 0 and len(found) == 3


def test_a_record_holds_what_was_packed():
    random = np.random.default_rng(0)
    points = NONE._replace(
        places=random.random((7, 2)).astype(np.float32), described=random.integers(0, 256, (7, 128)).astype(np.uint8)
    )
    for given in (points, NONE):
        again = unpacked(packed(given))
        assert len(packed(given)) == 54_404
        assert np.array_equal(again.places, given.places) and np.array_equal(again.described, given.described)


def test_a_run_without_opencv_is_refused_before_it_begins(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    cfg, _ = load_config(None, ["TEST.POINTS", "100", "OUTPUT_DIR", str(tmp_path / "run")])
    with pytest.raises(ReIDError, match=r"TEST\.POINTS needs the package OpenCV.*pip install opencv-python-headless"):
        start_run(cfg)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["TEST.POINTS", "many"], r"TEST.POINTS = 'many': expected the number"),
        (["TEST.POINTS", "-1"], r"TEST.POINTS = '-1'"),
        (["TEST.LOCAL", "sift"], r"TEST.LOCAL"),
        (["TEST.LOCAL", "poc", "TEST.POINTS", "5"], r"each is a ranking of its own"),
        (["TEST.POINTS", "all", "TEST.CALIBRATION", "True"], r"TEST.POINTS all with TEST.CALIBRATION"),
        (["TEST.LOCAL", "poc", "TEST.DIST_MAT", "a.npy"], r"TEST.LOCAL poc with TEST.DIST_MAT"),
    ],
)
def test_settings_that_cannot_work(pairs, message):
    with pytest.raises(ReIDError, match=message):
        load_config(None, pairs)

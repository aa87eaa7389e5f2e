"""Blocked counts against all scores kept, whatever the blocks, the rule and the range of the scores."""

import numpy as np
import pytest
import torch

from utils.biometric import counting
from utils.biometric.comparisons import Crossing, listed_blocks
from utils.biometric.error_rates import tally
from utils.biometric.pair_scores import paired_scores
from utils.biometric.protocols import Pairs
from utils.errors import ReIDError
from utils.metrics import Features

FARS = (0.2, 0.05, 0.01)


def split(seed=0, offset=0.0, queries=40, items=70):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(8, 12))
    parts = []
    for count in (queries, items):
        pids = random.integers(-1, 8, count)
        features = (offset + centres[pids] + random.normal(size=(count, 12))).astype(np.float32)
        parts.append(Features(torch.from_numpy(features), pids, random.integers(0, 2, count)))
    return parts


def kept(crossing):
    genuine, impostor = [], []
    for block in crossing.blocks():
        genuine.append(block.scores[block.counted & block.same])
        impostor.append(block.scores[block.counted & ~block.same])
    return tally(torch.cat(genuine).numpy(), torch.cat(impostor).numpy())


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("rule", ["none", "market"])
@pytest.mark.parametrize(("bins", "most"), [(2**20, 2**24), (64, 2**24), (64, 30)])
def test_counts_in_bins_give_the_rates_of_all_scores(monkeypatch, rule, offset, bins, most):
    monkeypatch.setattr(counting, "BINS", bins)
    monkeypatch.setattr(counting, "KEPT", most)
    parts = split(offset=offset)
    wanted = kept(Crossing(*parts, rule))
    thresholds = wanted.scores[[3, len(wanted.scores) // 2, -4]]
    found = [
        counting.count(Crossing(*parts, rule, chunk_size=size).blocks, fars=FARS, thresholds=thresholds)
        for size in (None, 7)
    ]
    for counted in found:
        assert (counted.num_genuine, counted.num_impostor) == (wanted.num_genuine, wanted.num_impostor)
        assert counted.equal_error() == wanted.equal_error()
        assert [counted.accept_rate(far) for far in FARS] == [wanted.accept_rate(far) for far in FARS]
        np.testing.assert_array_equal(counted.rates_at(thresholds), wanted.rates_at(thresholds))
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_one_list_counts_each_pair_once_and_no_copy():
    (images, _) = split()
    copies = torch.arange(len(images))
    copies[5] = copies[9] = 3
    crossing = Crossing(images, images, copies=(copies, copies), once=True, chunk_size=6)
    left, right = torch.combinations(torch.arange(len(images))).T
    known = (images.pids[left] >= 0) & (images.pids[right] >= 0) & (copies[left] != copies[right])
    left, right = left[known], right[known]
    same = images.pids[left] == images.pids[right]
    assert sum(int(block.counted.sum()) for block in crossing.blocks()) == len(left)
    scores = paired_scores(images.features, images.features, left, right)
    wanted = tally(scores[same].numpy(), scores[~same].numpy())
    assert counting.count(crossing.blocks).equal_error() == wanted.equal_error()
    listed = counting.count(lambda: listed_blocks(Pairs(left, right, same), scores, len(images), len(images)))
    assert listed.equal_error() == wanted.equal_error() and listed.num_impostor == wanted.num_impostor


def test_an_image_is_not_compared_with_itself():
    images, _ = split()
    numbers = torch.arange(len(images))
    alone, free = (Crossing(images, images, copies=copies) for copies in ((numbers, numbers), None))
    known = int((images.pids >= 0).sum())
    assert counting.count(free.blocks).num_genuine - counting.count(alone.blocks).num_genuine == known


def test_a_missing_kind_is_named():
    query, gallery = split()
    alone = Features(gallery.features, np.zeros(len(gallery), int), np.zeros(len(gallery), int))
    crossing = Crossing(Features(query.features, np.zeros(len(query), int), query.camids), alone)
    with pytest.raises(ReIDError, match="needs two"):
        counting.count(crossing.blocks, reason=crossing.no_comparison)
    with pytest.raises(ReIDError, match="CAMERA_RULE = 'x'"):
        Crossing(query, gallery, "x")

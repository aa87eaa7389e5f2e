"""Replicates of the subject bootstrap against samples in which every copy of a person stands by itself."""

import numpy as np
import pytest
import torch

from utils.biometric.bootstrap import subjects as bootstrap
from utils.biometric.bootstrap.open_set import resample_searches
from utils.biometric.bootstrap.rankings import resample_rankings
from utils.biometric.comparisons import Comparisons
from utils.biometric.error_rates import tally
from utils.biometric.open_set import search_people
from utils.errors import ReIDError
from utils.metrics import evaluate_distances

PEOPLE = 9


class Sample:
    """Random scores with ties; identity 2p and 2p + 1 are the hands of person p, unless ``hands`` is 1."""

    def __init__(self, seed=0, hands=1, queries=24, gallery=40):
        random = np.random.default_rng(seed)
        self.scores = random.normal(size=(queries, gallery)).round(1)
        self.query, self.gallery = (random.integers(PEOPLE * hands, size=n) for n in (queries, gallery))
        self.cameras = tuple(random.integers(2, size=n) for n in (queries, gallery))
        self.scores[self.query[:, None] == self.gallery] += 1.5
        self.person = np.arange(PEOPLE * hands) // hands
        self.subjects = bootstrap.Subjects(
            torch.from_numpy(self.person[self.query]), torch.from_numpy(self.person[self.gallery]), PEOPLE
        )
        self.drawn = bootstrap.draw_people(PEOPLE, 5, seed)

    def blocks(self, rows, market=False):
        for start in range(0, len(self.query), rows):
            part = slice(start, start + rows)
            same = self.query[part, None] == self.gallery
            cameras = self.cameras[0][part, None] == self.cameras[1]
            counted = ~(same & cameras) if market else np.ones_like(same)
            yield Comparisons(part, *map(torch.from_numpy, (self.scores[part], same, counted)))

    def copied(self, weights):
        """Rows, columns and copy numbers of a sample in which each person stands ``weights`` times."""
        copies = [(person, copy) for person in range(PEOPLE) for copy in range(weights[person])]
        rows = [
            (i, number) for number, (p, _) in enumerate(copies) for i in np.flatnonzero(self.person[self.query] == p)
        ]
        columns = [
            (j, number) for number, (p, _) in enumerate(copies) for j in np.flatnonzero(self.person[self.gallery] == p)
        ]
        return rows, sorted(columns), [p for p, _ in copies]


def errors_by_copies(sample, weights, market):
    rows, columns, people = sample.copied(weights)
    genuine, impostor = [], []
    for i, a in rows:
        for j, b in columns:
            if a != b and people[a] == people[b]:
                continue
            same = sample.query[i] == sample.gallery[j]
            if same and market and sample.cameras[0][i] == sample.cameras[1][j]:
                continue
            (genuine if same else impostor).append(sample.scores[i, j])
    return tally(genuine, impostor)


@pytest.mark.parametrize("market", [False, True])
@pytest.mark.parametrize(("hands", "rows"), [(1, 100), (2, 100), (2, 5)])
def test_error_rates_are_those_of_the_copied_sample(hands, rows, market):
    sample = Sample(hands=hands)
    places = np.unique(sample.scores)
    sums = bootstrap.resample_errors(sample.blocks(rows, market), sample.subjects, places, sample.drawn)
    for weights, found in zip(sample.drawn, bootstrap.tallies(places, *sums), strict=True):
        wanted = errors_by_copies(sample, weights, market)
        assert (found.num_genuine, found.num_impostor) == (wanted.num_genuine, wanted.num_impostor)
        assert found.equal_error().rate == pytest.approx(wanted.equal_error().rate, abs=1e-12)
        assert found.accept_rate(0.1).tar == pytest.approx(wanted.accept_rate(0.1).tar, abs=1e-12)


@pytest.mark.parametrize("average_precision", ["standard", "trapezoid"])
@pytest.mark.parametrize("market", [False, True])
@pytest.mark.parametrize(("hands", "rows"), [(1, 100), (2, 7)])
def test_rankings_are_those_of_the_copied_sample(hands, rows, market, average_precision):
    sample = Sample(1, hands)
    found = resample_rankings(sample.blocks(rows, market), sample.subjects, sample.drawn, average_precision).measures()
    for b, weights in enumerate(sample.drawn[:2]):
        wanted = ranks_by_copies(sample, weights, market, average_precision)
        for name, value in wanted.items():
            assert found[name][b] == pytest.approx(value, abs=1e-6), name


def ranks_by_copies(sample, weights, market, average_precision):
    rows, columns, people = sample.copied(weights)
    index = np.array([j for j, _ in columns])
    copy = np.array([b for _, b in columns])
    kept = []
    for i, a in rows:
        junk = (np.array(people)[copy] == people[a]) & (copy != a)
        if market:
            same = sample.query[i] == sample.gallery[index]
            junk |= same & (sample.cameras[0][i] == sample.cameras[1][index])
        pids = np.where(junk, -1, sample.gallery[index] * 1000 + copy)
        kept.append((-sample.scores[i][index], sample.query[i] * 1000 + a, pids))
    metrics = []
    for distances, pid, pids in kept:
        if (pids == pid).any():
            zero = np.zeros(len(pids), int)
            one = [torch.from_numpy(distances.copy())[None]]
            ap = average_precision
            metrics.append(evaluate_distances(one, [pid], pids, [1], zero, camera_rule="none", average_precision=ap))
    ranks = {f"Rank-{k}": np.mean([m.rank(k) for m in metrics]) for k in (1, 5)}
    return {"mAP": np.mean([m.mAP for m in metrics]), "mINP": np.mean([m.mINP for m in metrics]), **ranks}


@pytest.mark.parametrize("hands", [1, 2])
def test_open_set_is_that_of_the_copied_sample(hands):
    sample = Sample(2, hands, queries=60)
    enrolled = sample.gallery < 6 * hands
    scores, templates = torch.from_numpy(sample.scores[:, enrolled]), sample.gallery[enrolled]
    known = np.isin(sample.query, templates) | (sample.query >= 6 * hands)
    scores, probes = scores[known], sample.query[known]
    blocks = [(slice(0, 7), scores[:7]), (slice(7, len(scores)), scores[7:])]
    labels = torch.from_numpy(probes), torch.from_numpy(templates), torch.from_numpy(sample.person)
    fpirs = (0.1, 0.4)
    found = resample_searches(blocks, *labels, sample.drawn, fpirs)
    for b, weights in enumerate(sample.drawn):
        own, rank, top = [], [], []
        for row, pid in zip(scores.numpy(), probes, strict=True):
            best = {p: row[templates == p].max() for p in np.unique(templates)}
            times = weights[sample.person[pid]]
            if pid not in best:
                there = [score for p, score in best.items() if weights[sample.person[p]]]
                top += [max(there, default=-np.inf)] * times
                continue
            ahead = sum(
                (score >= best[pid]) * (1 if sample.person[p] == sample.person[pid] else weights[sample.person[p]])
                for p, score in best.items()
                if p != pid
            )
            own += [best[pid]] * times
            rank += [1 + ahead] * times
        own, rank, top = np.array(own), np.array(rank), np.sort(top)[::-1]
        assert found.rank1[b] == pytest.approx((rank == 1).mean())
        for fpir, values in zip(fpirs, found.fnir, strict=True):
            refused = top[int(fpir * len(top) + 1e-9)]
            assert values[b] == pytest.approx(1 - ((rank == 1) & (own > refused)).mean())


def test_places_between_scores_change_intervals_little():
    random = np.random.default_rng(0)
    query, gallery = (torch.from_numpy(np.repeat(np.arange(40), 5)) for _ in range(2))
    same = query[:, None] == gallery
    scores = torch.from_numpy(random.normal(size=same.shape)) + 1.5 * same
    counted = Comparisons(slice(0, len(query)), scores, same, torch.ones_like(same))
    whole = tally(scores[same].numpy(), scores[~same].numpy())
    subjects, drawn = bootstrap.Subjects(query, gallery, 40), bootstrap.draw_people(40, 30)
    found = []
    for places, exact in (
        (np.unique(whole.scores)[::10], True),
        (bootstrap.choose_places(whole, 192, fars=[0.01]), False),
    ):
        sums = bootstrap.resample_errors([counted], subjects, places, drawn)
        replicates = bootstrap.tallies(places, *sums)
        found.append((bootstrap.equal_errors(replicates), bootstrap.accept_rates(replicates, 0.01, exact)))
    (fine_eer, fine_tar), (eer, tar) = found
    assert np.abs(eer - fine_eer).mean() < 0.15 * fine_eer.std()
    assert np.abs(tar - fine_tar).mean() < 0.15 * fine_tar.std()


def test_joint_drawing_widens_the_interval_of_fmr():
    """Drawing only query people omits the gallery's share of the spread."""
    random = np.random.default_rng(3)
    ease = random.normal(size=60)  # some people resemble everybody
    query = gallery = torch.arange(60)
    scores = torch.from_numpy(ease[:, None] + ease[None] + random.normal(size=(60, 60)))
    same = query[:, None] == gallery
    block = Comparisons(slice(0, 60), scores, same, torch.ones_like(same))
    drawn = bootstrap.draw_people(60, 400)
    places = np.array([-99.0, 3.0])
    genuine, impostor = bootstrap.resample_errors([block], bootstrap.Subjects(query, gallery, 60), places, drawn)
    joint = impostor[:, 1] / impostor.sum(1)
    hits = ((scores >= 3) & ~same).sum(1).numpy()
    query_only = drawn @ hits / (60 * 59)
    assert joint.std() > 1.3 * query_only.std()
    assert genuine.sum(1).tolist() == [60.0] * 400


def test_difference_pairs_people_and_draws_seeds():
    random = np.random.default_rng(0)
    people = random.normal(0, 5, 500)
    one, other = people + random.normal(0, 0.1, (1, 500)), people + 1 + random.normal(0, 0.1, (1, 500))
    found = bootstrap.difference(one, other, mean=1.0)
    assert 0.5 < found.low < found.mean < found.high < 1.5 and found.p == 0
    seeds = np.array([-3.0, 0.0, 3.0])[:, None]
    assert bootstrap.difference(one + seeds, other + seeds[::-1]).low < 0 < bootstrap.difference(one, other).low
    with pytest.raises(ReIDError, match="400 and 500 bootstrap replicates"):
        bootstrap.difference(one[:, :400], other)


def test_means_over_queries_draw_people_with_all_their_queries():
    values, people = np.array([0.1, np.nan, 0.4, 0.7]), ["a", "a", "b", "b"]
    drawn = np.array([[2, 0], [1, 1], [0, 2]])
    np.testing.assert_allclose(bootstrap.resample_means(values, people, drawn), [0.1, 0.4, 0.55])
    with pytest.raises(ReIDError, match="can't be paired"):
        bootstrap.resample_means(values, people[:3])
    with pytest.raises(ReIDError, match="nothing to compare"):
        bootstrap.resample_means(np.full(2, np.nan), ["a", "b"])


def test_replicates_without_comparisons_are_left_out_of_the_interval():
    assert bootstrap.interval(np.array([np.nan, 1.0, 3.0]), 1.0) == (1.0, 3.0)
    with pytest.raises(ReIDError, match="too few people"):
        bootstrap.interval(np.full(3, np.nan))
    empty = bootstrap.tallies(np.zeros(2), np.zeros((1, 2)), np.ones((1, 2)))
    assert empty == [None] and np.isnan(bootstrap.equal_errors(empty)).all()


def test_search_needs_both_kinds_of_probes():
    blocks = [(slice(0, 2), torch.rand(2, 3))]
    with pytest.raises(ReIDError, match="2 of 2 probes are of enrolled people"):
        search_people(blocks, [1, 2], [1, 2, 2])

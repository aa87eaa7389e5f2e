"""Templates, protocols, cohorts, groups and people left out: which images and pairs take part."""

import numpy as np
import pytest
import torch

from utils.biometric import groups
from utils.biometric.bootstrap.subjects import Subjects
from utils.biometric.comparisons import Comparisons
from utils.biometric.group_counts import count_units, number_units
from utils.biometric.open_set import draw_enrolled
from utils.biometric.pair_scores import paired_scores, score_blocks
from utils.biometric.protocols import fvc
from utils.biometric.scores import normalisation
from utils.biometric.templates import choose_images, join_rows, mean_features
from utils.errors import ReIDError

PIDS = np.array([3, 1, 3, -1, 1, 3, 2, 3, -1])


def test_a_template_takes_whole_sets_of_images_of_one_identity():
    one = choose_images(PIDS, 2)
    assert one.rows.tolist() == [1, 4, 0, 2] and one.group.tolist() == [0, 0, 1, 1] and one.pids.tolist() == [1, 3]
    every = choose_images(PIDS, 2, every=True)
    assert every.rows.tolist() == [1, 4, 0, 2, 5, 7] and every.pids.tolist() == [1, 3, 3]
    assert choose_images(PIDS, 1).pids.tolist() == [1, 2, 3]
    assert choose_images(PIDS, 5).pids.tolist() == []


def test_templates_are_drawn_by_seed_and_keep_sessions_apart():
    pids = np.zeros(40, int)
    drawn = {tuple(choose_images(pids, 3, seed).rows.tolist()) for seed in range(5)}
    assert len(drawn) == 5 and choose_images(pids, 3, 1).rows.tolist() == choose_images(pids, 3, 1).rows.tolist()
    sessions = np.arange(40) % 2
    chosen = choose_images(pids, 4, 0, every=True, apart=sessions)
    for group in range(len(chosen.pids)):
        assert len(set(sessions[chosen.rows[chosen.group == group]])) == 1


def test_several_probes_are_joined_by_row():
    scores = torch.tensor([[1.0, 4.0], [3.0, 2.0], [5.0, 6.0]])
    group = torch.tensor([0, 0, 1])
    assert join_rows(scores, group, 2, "best").tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert join_rows(scores, group, 2, "mean_score").tolist() == [[2.0, 3.0], [5.0, 6.0]]


def test_long_features_weigh_no_more_in_a_template():
    features = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    mean = mean_features(features, choose_images([0, 0], 2))
    assert mean[0].tolist() == pytest.approx([2**-0.5, 2**-0.5])


def test_fvc_compares_first_samples_of_different_people():
    found = fvc(torch.from_numpy(PIDS))
    pairs = {tuple(sorted(p)): bool(s) for *p, s in zip(*(part.tolist() for part in found), strict=True)}
    assert {p for p, same in pairs.items() if not same} == {(0, 1), (0, 6), (1, 6)}
    assert sum(pairs.values()) == 6 + 1
    with pytest.raises(ReIDError, match="found 1 identities with at most 1 images"):
        fvc(torch.tensor([4]))


@pytest.mark.parametrize("chunk_size", [1, 3, None])
def test_scores_do_not_depend_on_blocks(chunk_size):
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 64, generator=random) for n in (20, 33))
    whole = next(iter(score_blocks(first, second)))[1]
    blocks = torch.cat([block for _, block in score_blocks(first, second, chunk_size=chunk_size)])
    assert torch.equal(whole, blocks)
    left, right = (index.reshape(-1) for index in torch.meshgrid(torch.arange(20), torch.arange(33), indexing="ij"))
    assert torch.equal(paired_scores(first, second, left, right, at_a_time=100), whole.reshape(-1))
    exact = first.double() @ second.double().T / first.double().norm(dim=1)[:, None] / second.double().norm(dim=1)
    assert float((whole - exact).abs().max()) < 2**-40


def test_the_cohort_must_hold_other_people():
    scores = torch.rand(2, 3)
    pids, cohort = torch.tensor([0, 1]), torch.tensor([0, 0, 1])
    with pytest.raises(ReIDError, match="1 of 2 images have fewer than two cohort images"):
        normalisation.cohort_spread(scores, pids, cohort)
    with pytest.raises(ReIDError, match="scores the same with all"):
        normalisation.cohort_spread(torch.ones(2, 3))


def test_the_top_members_are_chosen_without_own_images():
    scores = torch.tensor([[9.0, 1.0, 2.0, 0.0]])
    found = normalisation.cohort_spread(scores, torch.tensor([5]), torch.tensor([5, 6, 7, 8]), top=2)
    assert found.mean.tolist() == [1.5] and found.std.tolist() == [0.5]


def test_a_share_of_the_people_is_left_out():
    first, again, other = (draw_enrolled(np.arange(9).repeat(3), 1 / 3, seed) for seed in (0, 0, 1))
    assert len(first) == 6 and first.tolist() == again.tolist() != other.tolist()
    with pytest.raises(ReIDError, match="leaves out 0"):
        draw_enrolled([1, 2, 3], 0.01, 0)


def test_people_without_a_group_count_nowhere():
    people, sides = torch.tensor([0, 1]), torch.tensor([0, -1])
    scores = torch.tensor([[0.9, 0.9, 0.9], [0.1, 0.1, 0.1]])
    same = torch.tensor([[True, False, False], [False, True, False]])
    gallery = torch.tensor([0, 1, 2]), torch.tensor([0, -1, 1])
    units = number_units(Subjects(people, gallery[0], 3), (sides, gallery[1]))
    block = Comparisons(slice(0, 2), scores, same, torch.ones_like(same))
    found = count_units([block], units, 0.5).by_group(["a", "b"])
    assert found.genuine.tolist() == [1, 0] and found.impostor.tolist() == [[0, 1], [0, 0]]
    assert found.fmr[0, 1] == 1 and np.isnan(found.fnmr[1])
    assert groups.worst_over_best([0.2, 0.0]) == float("inf") and np.isnan(groups.worst_over_best([0.0, 0.0]))
    assert np.isnan(groups.gini([0.3]))

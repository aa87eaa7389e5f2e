"""What a batch is made of. Counts against the published sampler stand in tests/parity/test_data.py."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from datasets.sampler import PairBatches, PKBatchSampler, ShuffledBatches

UNEVEN = {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 9, 6: 30}
"""Images of each identity, for K = 4: fewer, exactly, and more with a rest."""
PIDS = np.random.default_rng(0).permutation([pid for pid, count in UNEVEN.items() for _ in range(count)]).tolist()


def indices(sampler):
    return [[draw.index for draw in batch] for batch in sampler]


def blocks_of(sampler, size):
    return [batch[i : i + size] for batch in indices(sampler) for i in range(0, len(batch), size)]


def make(seed=1, batch=12, instances=4, pids=PIDS):
    return PKBatchSampler(pids, batch, instances, seed)


@pytest.mark.parametrize("epoch", range(1, 6))
def test_uneven_identities(epoch):
    sampler = make()
    sampler.set_epoch(epoch)
    assert sampler.batches and all(len(batch) == 12 for batch in sampler)
    used = Counter()
    for block in blocks_of(sampler, 4):
        (pid,) = {PIDS[i] for i in block}
        distinct = len(set(block))
        assert distinct <= min(UNEVEN[pid], 4) if UNEVEN[pid] < 4 else distinct == 4
        used[pid] += 1
    assert all(used[pid] <= max(1, count // 4) for pid, count in UNEVEN.items())
    for batch in indices(sampler):
        assert len({PIDS[i] for i in batch}) == 3
    # It stops only when fewer than three identities have images left.
    assert sum(used[pid] < max(1, count // 4) for pid, count in UNEVEN.items()) < 3


def test_a_large_k_repeats_images_of_every_identity():
    sampler = make(batch=64, instances=32)
    assert len(sampler) == 3  # seven identities with one group each, in pairs
    assert all(len({PIDS[i] for i in block}) == 1 and len(block) == 32 for block in blocks_of(sampler, 32))


def test_all_of_an_even_identity_come_once_an_epoch():
    pids = [pid for pid in range(6) for _ in range(4)]
    sampler = make(batch=24, instances=4, pids=pids)
    assert sorted(indices(sampler)[0]) == list(range(24))


def test_labels_may_be_any_integers_in_any_order():
    names = np.array([70, -3, 5, 1000, 12, 8, 9])
    assert indices(make(pids=np.searchsorted(np.sort(names), names[PIDS]))) == indices(make(pids=names[PIDS].tolist()))


SAMPLERS = {"identity": make, "shuffled": lambda seed=1: ShuffledBatches(54, 8, seed)}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_plan_is_a_function_of_seed_and_epoch(kind):
    one, two = SAMPLERS[kind](), SAMPLERS[kind]()
    np.random.seed(0)
    for epoch in (5, 1, 2, 1):
        one.set_epoch(epoch)
        np.random.seed(epoch + 100)
        two.set_epoch(9)
        two.set_epoch(epoch)
        assert list(one) == list(two) and len(one) == len(list(one))
    assert list(SAMPLERS[kind]()) == list(one)  # epoch 1 is the first
    plans = []
    for seed, epoch in ((1, 1), (1, 2), (2, 1), (2, 2), (12, 1)):
        sampler = SAMPLERS[kind](seed=seed)
        sampler.set_epoch(epoch)
        plans.append(indices(sampler))
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])


@pytest.mark.parametrize("kind", SAMPLERS)
def test_each_draw_has_its_own_seed(kind):
    sampler = SAMPLERS[kind]()
    seeds = []
    for epoch in (1, 2, 3):
        sampler.set_epoch(epoch)
        seeds += [draw.seed for batch in sampler for draw in batch]
    assert len(set(seeds)) == len(seeds) and all(type(seed) is int for seed in seeds)


@pytest.mark.parametrize(("images", "sizes"), [(16, [8, 8]), (19, [8, 8, 3]), (17, [8, 8]), (5, [5]), (2, [2])])
def test_shuffled_batches_take_every_image_once(images, sizes):
    sampler = ShuffledBatches(images, 8, seed=3)
    assert [len(batch) for batch in sampler] == sizes
    flat = [i for batch in indices(sampler) for i in batch]
    assert len(set(flat)) == len(flat) == sum(sizes)
    assert set(flat) <= set(range(images))


def test_the_image_left_out_changes_from_epoch_to_epoch():
    sampler = ShuffledBatches(17, 8, seed=3)
    left = set()
    for epoch in range(1, 60):
        sampler.set_epoch(epoch)
        left |= set(range(17)) - {i for batch in indices(sampler) for i in batch}
    assert len(left) > 10


def test_batches_combine_different_identities():
    sampler = make(pids=[pid for pid in range(8) for _ in range(4)], batch=8)
    partners = []
    for epoch in range(1, 41):
        sampler.set_epoch(epoch)
        partners += [frozenset(i // 4 for i in batch) for batch in indices(sampler)]
    assert len(set(partners)) > 24  # of 28 pairs
    assert any(a != b for a, b in pairwise(partners))


@pytest.mark.parametrize(("images", "sizes"), [(10, [4, 4]), (12, [4, 4, 4]), (3, [])])
def test_a_last_batch_that_is_not_full_can_be_left_out(images, sizes):
    sampler = ShuffledBatches(images, 4, 1, smallest=4)
    assert [len(batch) for batch in sampler] == sizes
    whole = ShuffledBatches(images, 4, 1)
    assert indices(sampler) == indices(whole)[: len(sizes)]


@pytest.mark.parametrize("epoch", [1, 2, 7])
def test_pairs_are_of_one_identity_that_no_other_pair_of_the_batch_has(epoch):
    sampler = PairBatches(PIDS, 8, seed=3)
    sampler.set_epoch(epoch)
    assert len(sampler) > 1
    for batch in sampler:
        assert len(batch) == 8
        pairs = list(zip(batch[0::2], batch[1::2], strict=True))
        assert all(PIDS[one.index] == PIDS[other.index] and one.index != other.index for one, other in pairs)
        assert all(one.seed == other.seed for one, other in pairs)
        assert len({one.seed for one, _ in pairs}) == len({PIDS[one.index] for one, _ in pairs}) == 4
    queries = [image for batch in indices(sampler) for image in batch[0::2]]
    assert len(set(queries)) == len(queries)
    assert not any(UNEVEN[PIDS[image]] == 1 for image in queries)


def test_an_epoch_of_pairs_visits_every_image_where_identities_are_many():
    pids = [pid for pid in range(64) for _ in range(4)]
    queries = [image for batch in indices(PairBatches(pids, 16, seed=0)) for image in batch[0::2]]
    assert len(set(queries)) == len(queries) > 0.9 * len(pids)


def test_an_epoch_of_pairs_ends_after_misfits():
    pids = [0] * 60 + [1] * 4
    for seed in range(20):  # the first batch is found however rare an identity is; identity 1 is in every batch
        assert 1 <= len(PairBatches(pids, 4, seed)) <= 4


def test_epochs_of_pairs_differ_and_repeat():
    first, again = PairBatches(PIDS, 8, seed=3), PairBatches(PIDS, 8, seed=3)
    assert first.batches == again.batches
    again.set_epoch(2)
    assert first.batches != again.batches


def test_processes_divide_a_batch_of_pairs_between_pairs():
    whole = PairBatches(PIDS, 8, seed=3)
    halves = [PairBatches(PIDS, 8, seed=3, share=lambda n, r=r: range(n * r // 2, n * (r + 1) // 2)) for r in range(2)]
    assert [a + b for a, b in zip(*(half.batches for half in halves), strict=True)] == whole.batches


def test_an_epoch_of_identities_has_each_once():
    sampler = PKBatchSampler(PIDS, 12, 4, 1, once=True)
    for epoch in range(1, 6):
        sampler.set_epoch(epoch)
        pids = [{PIDS[i] for i in block} for block in blocks_of(sampler, 4)]
        assert all(len(pid) == 1 for pid in pids)
        assert len(pids) == len({pid for (pid,) in pids}) == 6, "7 identities, of which batches of 3 leave out one"


@pytest.mark.parametrize("length", [1, 7, 40])
def test_an_epoch_of_so_many_batches(length):
    whole, sampler = make(), make()
    whole.set_epoch(3)
    sampler.length = length
    sampler.set_epoch(3)
    found = indices(sampler)
    assert len(found) == len(sampler) == length and all(len(batch) == 12 for batch in found)
    assert found[: len(whole)] == indices(whole)[:length], "it begins as the whole epoch does"
    before = [draw.seed for batch in sampler for draw in batch]
    assert len(set(before)) == len(before)
    sampler.set_epoch(3, skip=length - 1)
    assert indices(sampler) == found[-1:]


def test_without_enough_identities_there_is_no_epoch_of_any_length():
    sampler = make(batch=60)
    sampler.length = 5
    sampler.set_epoch(1)
    assert not len(sampler)

"""Prototypes against plain Python, image by image, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from loss import identity_means, moved_prototypes, prototype_contrast


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def slow_move(memory, features, labels, momentum):
    """On lists of floats: the least similar image of each identity in the batch updates its memory."""
    memory = [list(map(float, row)) for row in memory]
    for identity in sorted(set(labels)):
        images = [list(map(float, f)) for f, label in zip(features, labels, strict=True) if label == identity]
        similarity = [sum(a * b for a, b in zip(image, memory[identity], strict=True)) for image in images]
        hardest = images[similarity.index(min(similarity))]
        moved = [momentum * old + (1 - momentum) * new for old, new in zip(memory[identity], hardest, strict=True)]
        length = math.sqrt(sum(value * value for value in moved))
        memory[identity] = [value / length for value in moved]
    return memory


@pytest.mark.parametrize("momentum", [0.0, 0.2, 0.9])
def test_memory_after_a_sequence_of_batches(momentum):
    fast, slow = unit(5, 6), unit(5, 6).tolist()
    for step, labels in enumerate(([3, 3, 0, 3], [1, 1, 1, 1], [0, 2, 3, 0])):
        features = unit(4, 6, seed=10 + step)
        fast = moved_prototypes(fast, features, torch.tensor(labels), momentum)
        slow = slow_move(slow, features.tolist(), labels, momentum)
    assert torch.allclose(fast, torch.tensor(slow), atol=1e-6)
    assert torch.equal(fast[4], unit(5, 6)[4]), "an identity that never came stays as it was"


def test_the_least_similar_image_moves_it():
    memory = torch.tensor([[1.0, 0.0]])
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    found = moved_prototypes(memory, features, torch.zeros(3, dtype=torch.long), 0.2)
    assert torch.allclose(found, F.normalize(torch.tensor([[0.2, 0.8]])))


def test_contrast_by_hand():
    features, centroids, labels = unit(3, 4, seed=1).requires_grad_(), unit(5, 4, seed=2), [4, 0, 4]
    expected = 0.0
    for feature, label in zip(features.tolist(), labels, strict=True):
        scores = [sum(a * b for a, b in zip(feature, c, strict=True)) / 0.05 for c in centroids.tolist()]
        expected += (math.log(sum(math.exp(score) for score in scores)) - scores[label]) / 3
    found = prototype_contrast(features, centroids, torch.tensor(labels), 0.05)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert features.grad.abs().sum() > 0


def test_means_of_identities():
    features = torch.tensor([[1.0, 3.0], [5.0, 5.0], [3.0, 1.0]])
    found = identity_means(features, torch.tensor([2, 0, 2]), 4)
    assert torch.equal(found, torch.tensor([[5.0, 5.0], [0.0, 0.0], [2.0, 2.0], [0.0, 0.0]]))

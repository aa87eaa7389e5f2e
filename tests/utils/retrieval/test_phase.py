import numpy as np
import pytest
import torch
from PIL import Image

from utils.retrieval.phase import BAND, phase_of, phase_scores


def texture(seed, height=48, width=72):
    """Smooth random grey values."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (height // 4, width // 4), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def slow_score(one, other, limit):
    """The definition with NumPy's full transform in float64, and every shift by a loop."""
    phases = []
    for image in (one, other):
        pixels = np.asarray(image, dtype=np.float64)
        window = np.outer(*(np.hanning(side + 2)[1:-1] for side in pixels.shape))
        spectrum = np.fft.fft2((pixels - pixels.mean()) * window)
        rows, columns = (max(1, int(BAND * side / 2)) for side in pixels.shape)
        band = np.roll(spectrum, (rows, columns), (0, 1))[: 2 * rows + 1, : 2 * columns + 1]
        phases.append(band / abs(band))
    cross = np.fft.ifftshift(phases[0].conj() * phases[1])
    surface = np.fft.ifft2(cross).real
    up, aside = (int(limit * side) for side in surface.shape)
    return max(surface[y, x] for y in range(-up, up + 1) for x in range(-aside, aside + 1))


def test_equals_the_definition_in_float64():
    images = [texture(seed) for seed in range(4)]
    phases = torch.stack([phase_of(image) for image in images])
    for limit in (0.1, 0.3):
        found = torch.stack([phase_scores(phase, phases, limit) for phase in phases])
        slow = [[slow_score(a, b, limit) for b in images] for a in images]
        np.testing.assert_allclose(found, slow, atol=2e-4)


def test_an_image_scores_one_with_itself_and_more_with_its_shift_than_with_others():
    one = texture(0, 64, 96)
    shifted = Image.fromarray(np.roll(np.asarray(one), (5, -8), (0, 1)))
    scores = phase_scores(phase_of(one), torch.stack([phase_of(i) for i in (one, shifted, texture(1, 64, 96))]))
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert 0.35 < scores[1] < 0.95 and scores[2] < 0.8 * scores[1]


def test_the_order_of_the_gallery_and_its_blocks_do_not_matter(monkeypatch):
    phases = torch.stack([phase_of(texture(seed)) for seed in range(7)])
    scores = phase_scores(phases[0], phases)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    monkeypatch.setattr("utils.retrieval.phase._AT_A_TIME", 2)
    assert torch.equal(phase_scores(phases[0], phases[order]), scores[order])


def test_uniform_and_tiny_images_have_no_points_in_common():
    for size in ((40, 30), (2, 2), (1, 1)):
        flat = phase_of(Image.new("RGB", size, (90, 90, 90)))
        assert not flat.abs().any() and phase_scores(flat, flat[None]).tolist() == [0]
    assert phase_scores(phase_of(texture(0)), torch.zeros(0, 13, 10)).shape == (0,)

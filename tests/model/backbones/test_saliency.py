"""Saliency against a slow attention and against the network's own computation."""

import numpy as np
import pytest
import torch

from model.backbones.saliency import attention_rollout, attention_weights, contributions
from model.clip.model import make_image_encoder
from model.clip.shapes import ARCHITECTURES, HEAD_WIDTH


def encoder(name):
    torch.manual_seed(0)
    return make_image_encoder(ARCHITECTURES[name], (48, 32), None).eval()


def slow_weights(attention, x):
    """One image, one head, one token at a time, in float64."""
    weight, bias = (p.detach().double().numpy() for p in (attention.in_proj_weight, attention.in_proj_bias))
    tokens, width = x.shape[1], x.shape[2]
    out = np.zeros((len(x), width // HEAD_WIDTH, tokens, tokens))
    for b, image in enumerate(x.double().numpy()):
        query, key = (image @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width] for i in (0, 1))
        for head in range(width // HEAD_WIDTH):
            part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
            for token in range(tokens):
                raised = np.exp([query[token, part] @ key[other, part] / HEAD_WIDTH**0.5 for other in range(tokens)])
                out[b, head, token] = raised / raised.sum()
    return out


@torch.no_grad()
def test_rollout():
    network = encoder("ViT-Tiny-16")
    images = torch.randn(2, 3, 48, 32)
    x, expected = network.embed(images), np.eye(7)
    for block in network.transformer.resblocks:
        inside = block.ln_1(x)
        weights = slow_weights(block.attn, inside)
        assert np.allclose(attention_weights(block.attn, inside).numpy(), weights, atol=1e-5)
        value = torch.nn.functional.linear(inside, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)[2]
        mixed = torch.einsum("bhij,bjhd->bihd", torch.tensor(weights).float(), value.unflatten(-1, (-1, HEAD_WIDTH)))
        assert torch.allclose(block.attn.out_proj(mixed.flatten(2)), block.attn(inside), atol=1e-5)
        expected = (weights.mean(1) + np.eye(7)) / 2 @ expected
        x = block(x)
    found = attention_rollout(network.embed(images), network.transformer.resblocks, network.grid)
    assert found.shape == (2, 3, 2)
    assert np.allclose(found.numpy().reshape(2, 6), expected[:, 0, 1:], atol=1e-5)


def pulled(score, maps, place, step=1e-3):
    """The derivative of a score by the scale of everything at one place, by finite differences in float64."""
    mask = torch.zeros(maps.shape[-2:], dtype=torch.float64)
    mask[place] = 1
    up, down = (score(maps * (1 + sign * step * mask)) for sign in (1, -1))
    return (up - down) / (2 * step)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_contributions_to_the_feature_of_clips_resnet(mode):
    network = encoder("RN-Tiny")
    images = torch.randn(2, 3, 48, 32)
    with mode():
        found = network.saliency(images)
    network = network.double()
    with torch.no_grad():
        _, maps = network.maps(images.double())

        def feature(x):
            return torch.cat([x.mean((2, 3)), network.attnpool(x)[:, 0]], 1)

        target = feature(maps)
        rates = torch.stack(
            [
                torch.stack([pulled(lambda x: (feature(x) * target).sum(1), maps, (r, c)) for c in range(2)], 1)
                for r in range(3)
            ],
            1,
        ).clamp(min=0)
    low, high = rates.amin((1, 2), keepdim=True), rates.amax((1, 2), keepdim=True)
    assert np.allclose(found.numpy(), ((rates - low) / (high - low)).numpy(), atol=1e-4)


def test_contributions_to_a_mean_add_up_to_its_squared_length():
    maps = torch.randn(3, 5, 4, 6).abs()
    mean = maps.mean((2, 3))
    found = contributions(maps, lambda x: x.mean((2, 3)))
    assert torch.allclose(found.sum((1, 2)), mean.pow(2).sum(1), rtol=1e-5)
    last = contributions(maps.movedim(1, -1), lambda x: x.mean((1, 2)), channels=3)
    assert torch.allclose(last, found, atol=1e-6)


def test_a_place_that_the_feature_does_not_use_is_dark_despite_large_activations():
    """The norm of the activations shows the border of an image, where padding makes them large."""
    maps = torch.ones(1, 2, 3, 3)
    maps[0, :, 0, 0] = torch.tensor([-50.0, 50.0])  # cancels in the mean with the opposite corner
    maps[0, :, 2, 2] = torch.tensor([50.0, -50.0])
    assert maps.norm(dim=1)[0].argmax() == 0
    found = contributions(maps, lambda x: x.mean((2, 3)))
    assert torch.allclose(found[0, 0, 0], torch.tensor(0.0), atol=1e-4)
    assert found[0, 1, 1] > 0.1


def test_maps_reach_from_0_to_1():
    images = torch.randn(2, 3, 48, 32)
    for name in ("RN-Tiny", "ViT-Tiny-16"):
        maps = encoder(name).saliency(images)
        assert torch.equal(maps.amin((1, 2)), torch.zeros(2)) and torch.allclose(maps.amax((1, 2)), torch.ones(2))

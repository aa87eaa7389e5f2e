"""Where the encoder looks, against a slow attention of its own and against what the network computes."""

import numpy as np
import torch

from model.backbones.saliency import activation_map, attention_rollout, attention_weights
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
    found = attention_rollout(network, images)
    assert found.shape == (2, 3, 2)
    assert np.allclose(found.numpy().reshape(2, 6), expected[:, 0, 1:], atol=1e-5)


@torch.no_grad()
def test_activations_and_range():
    network = encoder("RN-Tiny")
    images = torch.randn(2, 3, 48, 32)
    found = activation_map(network, images)
    assert np.allclose(found.numpy() ** 2, (network.maps(images)[1].numpy() ** 2).sum(1), rtol=1e-4)
    for name in ("RN-Tiny", "ViT-Tiny-16"):
        maps = encoder(name).saliency(images)
        assert torch.equal(maps.amin((1, 2)), torch.zeros(2)) and torch.allclose(maps.amax((1, 2)), torch.ones(2))

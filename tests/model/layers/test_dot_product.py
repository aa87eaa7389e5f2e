"""Attention in bfloat16 on a CPU against its definition in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from model.layers import dot_product
from model.layers.dot_product import dot_product_attention

SHAPE = (5, 3, 33, 16)


def tensors(dtype, queries=33, sharp=1, seed=0):
    """Queries, keys, values and a gradient, laid out as the heads of a transformer are; ``sharp`` scales the scores."""
    generator = torch.Generator().manual_seed(seed)
    images, heads, tokens, width = SHAPE
    rows = (queries, tokens, tokens, queries)
    drawn = [torch.randn(images, n, heads, width, generator=generator).transpose(1, 2).to(dtype) for n in rows]
    drawn[0] = sharp * drawn[0]
    return [part.requires_grad_() for part in drawn[:3]], drawn[3]


def results(attend, inputs, gradient):
    out = attend(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, gradient)]


def definition(query, key, value, causal):
    scores = query @ key.mT / query.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1) & causal
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize(("queries", "causal"), [(33, False), (1, False), (33, True)])
@pytest.mark.parametrize("sharp", [1, 4, 8])
def test_bfloat16_is_as_close_to_float64_as_the_fused_attention(queries, causal, sharp):
    inputs, gradient = tensors(torch.bfloat16, queries, sharp)
    wide = [part.detach().double().requires_grad_() for part in inputs]
    exact = results(partial(definition, causal=causal), wide, gradient.double())
    found = results(partial(dot_product_attention, causal=causal), inputs, gradient)
    fused = results(partial(F.scaled_dot_product_attention, is_causal=causal), inputs, gradient)
    for value, other, wanted in zip(found, fused, exact, strict=True):
        error, allowed = ((part.double() - wanted).norm() / wanted.norm() for part in (value, other))
        assert value.dtype == torch.bfloat16 and error < max(1.1 * allowed, 2**-8)


def test_images_in_parts_are_images_together(monkeypatch):
    inputs, gradient = tensors(torch.bfloat16)
    whole = results(dot_product_attention, inputs, gradient)
    monkeypatch.setattr(dot_product, "_WEIGHTS_AT_ONCE", 2 * 3 * 33 * 33)
    for one, other in zip(whole, results(dot_product_attention, inputs, gradient), strict=True):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-6)


def test_float32_and_tests_use_the_fused_attention():
    inputs, gradient = tensors(torch.float32)
    found, fused = (results(f, inputs, gradient) for f in (dot_product_attention, F.scaled_dot_product_attention))
    assert all(map(torch.equal, found, fused))
    reduced = [part.detach().bfloat16() for part in inputs]
    with torch.no_grad():
        assert torch.equal(dot_product_attention(*reduced), F.scaled_dot_product_attention(*reduced))


@pytest.mark.parametrize("causal", [False, True])
def test_a_process_may_get_no_sentence(causal):
    empty = [torch.zeros(0, 3, 5, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    out = dot_product_attention(*empty, causal)
    out.sum().backward()
    assert out.shape == (0, 3, 5, 16) and all(part.grad.shape == part.shape for part in empty)

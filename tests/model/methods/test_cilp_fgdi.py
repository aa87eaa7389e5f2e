"""CILP-FGDI's sentences with a token of the domain."""

import pytest
import torch

from model.clip.model import make_image_encoder
from model.clip.shapes import named_shape
from model.clip.simple_tokenizer import encode, tokenize
from model.methods.cilp_fgdi import DomainPrompts


@pytest.mark.parametrize("sentence", ["A photo of a X X X X person.", "An X-ray of a X X hand of x people."])
def test_learned_tokens_take_the_places_of_the_two_kinds_of_x(sentence):
    text = make_image_encoder(named_shape("ViT-Tiny-16"), (32, 32)).text
    prompts = DomainPrompts(sentence, 2, text)
    count = sentence.count("X") - sentence.count("X-ray")
    context = torch.randn(2, count, text.embedding.shape[1])
    found = prompts(context, torch.tensor([1, 0]))
    tokens = tokenize(f"{sentence.rstrip('.')} from X dataset.")[0]
    first = sentence.replace("X-ray", "x-ray").index("X")
    first = len(encode(sentence[:first])) + 1
    domain = len(encode(f"{sentence.rstrip('.')} from")) + 1
    expected = text.embedding[tokens[: found.shape[1]]].expand(2, -1, -1).clone()
    expected[:, first : first + count] = context
    expected[:, domain] = prompts.context[torch.tensor([1, 0])][:, 0].detach()
    torch.testing.assert_close(found.detach(), expected)

"""Which tokens of a sentence are learned, counted by CLIP's tokenizer."""

import pytest
import torch

from model.clip.prompts import PromptLearner, Template, context_tokens
from model.clip.simple_tokenizer import encode, refuse_marks
from utils.errors import ReIDError

TABLE = torch.arange(49408.0)[:, None].expand(-1, 4).clone()
"""The embedding of a token is its number, four times."""


@pytest.mark.parametrize(
    ("sentence", "before", "after"),
    [
        ("A photo of a X X X X hand.", "a photo of a", "hand."),
        ("A photo of a X X X X.", "a photo of a", "."),
        ("A photo (X X X X) of a hand", "a photo (", ") of a hand"),
        ("X X X X, a hand", "", ", a hand"),
        ('"X X X X"', '"', '"'),
        ("A photo of X  X\tX X's hand!", "a photo of", "'s hand!"),
        ("an_X X X X_", "an_", "_"),
        ("an X-ray photo of a X X X X hand", "an X-ray photo of a", "hand"),
        ("a X X X X-shaped hand", "a", "-shaped hand"),
    ],
)
def test_every_x_is_learned_and_nothing_else(sentence, before, after):
    assert context_tokens(sentence)[1] == 4
    template = Template(sentence, TABLE)
    assert template.free == (4, 4)
    prefix, suffix = (part[0, :, 0].long().tolist() for part in (template.token_prefix, template.token_suffix))
    assert prefix == [49406, *encode(before)]
    assert suffix[: len(encode(after)) + 1] == [*encode(after), 49407] and not any(suffix[len(encode(after)) + 1 :])
    learner = PromptLearner(sentence, 2, TABLE)
    placed = learner(torch.tensor([1]), whole=True)[0]
    assert placed.shape == (77, 4)
    assert torch.equal(placed[len(prefix) : len(prefix) + 4], learner.cls_ctx[1])
    assert learner.end == len(prefix) + 4 + len(encode(after))
    assert sentence.count("X-ray") == [*prefix, *suffix].count(encode("x")[0]), "no other X stays an ordinary word"


@pytest.mark.parametrize(
    "sentence",
    ["A photo of a hand", "", "XX XX", "X and X", "X, X", "X X. X", "x x x", "X1 hand", "X-X-X", "X" * 4],
)
def test_sentences_without_x_side_by_side_are_refused(sentence):
    with pytest.raises(ReIDError, match=r"MODEL.PROMPT = .*expected one X for each learnable token"):
        context_tokens(sentence)


@pytest.mark.parametrize("mark", ["<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "&lt;|endoftext|&gt;"])
def test_marks_of_the_tokenizer_are_refused(mark):
    """The text encoder reads up to the first end mark, so words behind one would never be read."""
    with pytest.raises(ReIDError, match=r"MODEL.PROMPT = .*cannot stand inside one"):
        context_tokens(f"A photo of a X X X X {mark} hand.")
    with pytest.raises(ReIDError, match=r"an identity's name = 'a.*Take them out"):
        refuse_marks(["anna", f"a{mark}b"], "an identity's name")
    refuse_marks(["anna", "end of text", "<|end|>"], "an identity's name")

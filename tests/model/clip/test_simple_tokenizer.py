"""Tokenizer against golden strings of the published implementation (parity case 01) and by its invariants."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.clip.simple_tokenizer import END_OF_TEXT, START_OF_TEXT, clean, decode, encode, tokenize
from tests.parity.kit import CASES
from utils.errors import ReIDError

GOLDEN = json.loads((CASES / "01_tokenizer.json").read_text(encoding="utf-8"))
ROWS = np.load(CASES / "01_tokenizer_rows.npz")["rows"]


@pytest.mark.parametrize("case", GOLDEN["strings"], ids=range(len(GOLDEN["strings"])))
def test_golden_tokens_and_text(case):
    assert encode(case["text"]) == case["ids"]
    assert decode(case["ids"]) == case["decode"]


def test_golden_rows():
    rows = tokenize([case["text"] for case in GOLDEN["strings"]])
    assert rows.dtype == torch.int64
    np.testing.assert_array_equal(rows.numpy(), ROWS)
    assert rows.argmax(dim=1).tolist() == [case["eot_index_by_argmax"] for case in GOLDEN["strings"]]
    assert [GOLDEN["sot"], GOLDEN["eot"]] == [START_OF_TEXT, END_OF_TEXT]


@pytest.mark.parametrize("case", GOLDEN["long"], ids=range(len(GOLDEN["long"])))
def test_golden_long_strings(case):
    assert tokenize(case["text"], truncate=True).tolist() == [case["row_with_truncate"]]
    if case["raises_without_truncate"]:
        with pytest.raises(ReIDError, match=rf"takes {case['n_tokens_with_sot_eot']} tokens.*reads 77.*MODEL.PROMPT"):
            tokenize(case["text"])
    else:
        assert tokenize(case["text"]).tolist() == [case["row_with_truncate"]]


def test_golden_shorter_context():
    case = GOLDEN["shorter_context"]
    assert tokenize(case["text"], case["context_length"]).tolist() == [case["row"]]


def test_no_sentences_and_tensors():
    assert tokenize([]).shape == (0, 77)
    assert decode(torch.tensor(encode("A hand"))) == "a hand "


@pytest.mark.parametrize("token", [-1, 49408])
def test_unknown_token(token):
    with pytest.raises(ReIDError, match=f"Token {token} does not exist"):
        decode([token])


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_decoding_gives_the_cleaned_text_back(text):
    """Only spaces differ: one follows each word. Holds for all of Unicode, lone surrogates too."""
    tokens = encode(text)
    assert decode(tokens).replace(" ", "") == clean(text).replace(" ", "")
    assert all(0 <= token <= END_OF_TEXT for token in tokens)


@settings(max_examples=100, deadline=None)
@given(st.text("abh ", max_size=200), st.integers(2, 12))
def test_rows_have_one_shape(text, length):
    row = tokenize(text, length, truncate=True)[0]
    end = int(row.argmax())
    assert row.shape == (length,)
    assert row[0] == START_OF_TEXT and row[end] == END_OF_TEXT and not row[end + 1 :].any()

"""CLIP's tokenizer: text -> numbers, by byte-level byte-pair encoding (BPE) with 49408 tokens.

The vocabulary file lists pairs of tokens in the order in which they were merged when the vocabulary was
learned (Sennrich et al., arXiv 1508.07909). Tokens are numbered: 256 bytes, 256 bytes that end a word, one
token for each merge, start and end of text. So the number of a merged token is its priority too, and
encoding needs no strings.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import ftfy
import regex
import torch
from torch import Tensor

from utils.errors import ReIDError

VOCABULARY_FILE = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
VOCABULARY_SIZE = 49408
START_OF_TEXT = VOCABULARY_SIZE - 2
END_OF_TEXT = VOCABULARY_SIZE - 1
CONTEXT_LENGTH = 77
"""Tokens that CLIP's text encoder reads."""

_SPECIAL = {"<|startoftext|>": START_OF_TEXT, "<|endoftext|>": END_OF_TEXT}
_NUM_MERGES = VOCABULARY_SIZE - 2 * 256 - len(_SPECIAL)
_END_OF_WORD = "</w>"
# The markers, English contractions, runs of letters, single digits, runs of anything else but white space.
_WORD = regex.compile(
    r"<\|(?:startoftext|endoftext)\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


class _Vocabulary(NamedTuple):
    byte_ids: list[int]
    """Token of each byte value; the same byte at the end of a word is 256 further."""
    merges: dict[tuple[int, int], int]
    """Two neighbouring tokens -> the token that replaces them; the smaller, the sooner."""
    spelled: list[bytes]
    """What each token decodes to."""


@functools.cache
def _vocabulary() -> _Vocabulary:
    # The file writes a byte as one visible character: printable Latin-1 as itself, the rest from U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = printable + sorted(set(range(256)) - set(printable))
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    ids = {letter + ending: i for i, (ending, letter) in enumerate(itertools.product(("", _END_OF_WORD), letters))}
    spelled = [bytes([b]) for b in order] + [bytes([b]) + b" " for b in order]
    merges = {}
    for line in _vocabulary_lines()[1 : 1 + _NUM_MERGES]:  # the first is the file's version
        left, right = line.split()
        merges[ids[left], ids[right]] = ids[left + right] = len(spelled)
        spelled.append(spelled[ids[left]] + spelled[ids[right]])
    spelled += [marker.encode() for marker in _SPECIAL]
    return _Vocabulary([order.index(b) for b in range(256)], merges, spelled)


def _vocabulary_lines() -> list[str]:
    """The vocabulary file's lines; any other file would number the tokens differently, which makes weights useless.

    Raises:
        ReIDError: the file is missing or is not the published one.
    """
    try:
        content = VOCABULARY_FILE.read_bytes() if VOCABULARY_FILE.is_file() else b""
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise ReIDError(
            f"{VOCABULARY_FILE}: is not CLIP's vocabulary (its SHA-256 differs, or it is missing). Restore it from "
            "the repository."
        )
    return gzip.decompress(content).decode().split("\n")


@functools.lru_cache(maxsize=1 << 16)
def _encode_word(word: str) -> tuple[int, ...]:
    """Merge the pair learned first, wherever it stands in the word, until no known pair is left."""
    if word in _SPECIAL:
        return (_SPECIAL[word],)
    vocabulary = _vocabulary()
    tokens = [vocabulary.byte_ids[b] for b in word.encode()]
    tokens[-1] += 256
    while True:
        pairs = [vocabulary.merges.get(pair, VOCABULARY_SIZE) for pair in itertools.pairwise(tokens)]
        merged = min(pairs, default=VOCABULARY_SIZE)
        if merged == VOCABULARY_SIZE:
            return tuple(tokens)
        joined, i = [], 0
        while i < len(tokens):
            here = i < len(pairs) and pairs[i] == merged
            joined.append(merged if here else tokens[i])
            i += 2 if here else 1
        tokens = joined


def clean(text: str) -> str:
    """Text as CLIP sees it: mojibake and HTML entities repaired, single spaces, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


def encode(text: str) -> list[int]:
    """Tokens of ``text`` without start and end of text."""
    return [token for word in _WORD.findall(clean(text)) for token in _encode_word(word)]


def refuse_marks(texts: Iterable[str], what: str) -> None:
    """Refuse texts that hold the tokenizer's marks of start or end: a sentence is read up to its first end mark.

    Args:
        texts: sentences, names or parts of them.
        what: they are, for the message.

    Raises:
        ReIDError: naming the text.
    """
    for text in texts:
        if not {START_OF_TEXT, END_OF_TEXT}.isdisjoint(encode(text)):
            raise ReIDError(
                f"{what} = {_shortened(text)!r}: {' and '.join(_SPECIAL)} mark where a sentence starts and ends and "
                "cannot stand inside one. Take them out."
            )


def decode(tokens: Iterable[int] | Tensor) -> str:
    """Text of ``tokens``, in lower case, a space after each word; bytes that are no UTF-8 become U+FFFD.

    Raises:
        ReIDError: a number is no token.
    """
    numbers = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
    strange = [n for n in numbers if not 0 <= n < VOCABULARY_SIZE]
    if strange:
        raise ReIDError(f"Token {strange[0]} does not exist; CLIP's vocabulary has tokens 0 to {END_OF_TEXT}.")
    return b"".join(_vocabulary().spelled[n] for n in numbers).decode(errors="replace")


def tokenize(
    texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False
) -> torch.LongTensor:
    """Sentences -> rows of start, tokens, end, zeros.

    The end of the text is the first maximum of a row: no token has a larger number.

    Args:
        texts: one sentence or N of them.
        context_length: L, tokens in a row.
        truncate: cut what is too long, keeping an end-of-text token in the last place.

    Returns:
        int64 [N, L].

    Raises:
        ReIDError: a sentence is too long and ``truncate`` is off.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    rows = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        tokens = [START_OF_TEXT, *encode(text), END_OF_TEXT]
        if len(tokens) > context_length:
            if not truncate:
                raise ReIDError(
                    f"The sentence {_shortened(text)!r} takes {len(tokens)} tokens with start and end; the "
                    f"text encoder reads {context_length}. Shorten it (for the prompt: MODEL.PROMPT)."
                )
            tokens = [*tokens[: context_length - 1], END_OF_TEXT]
        row[: len(tokens)] = torch.tensor(tokens)
    return rows


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."

"""Nearest words and sentences of the learned prompts, for the report, with a line about their limits.

CoOp's authors list the nearest words of their vectors too and find most of them without meaning (arXiv 2109.01134,
Table 4): a vector may lie far from all words.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.base import Method
from model.clip.prompts import sentence_features
from model.clip.simple_tokenizer import START_OF_TEXT, decode
from processor.runs.run import Run
from utils.compute.distributed import is_main
from utils.compute.precision import computing_in
from utils.console.logger import LOGGER
from utils.files.checkpoint import save_json

if TYPE_CHECKING:
    from datasets.bases import ReIDDataset

CAUTION = (
    "Learned tokens are not words. Training gives them no meaning, and the nearest word of a token can be "
    "far away and differ from seed to seed. They say nothing about a person."
)
"""Stands beside every list of such words."""

WORDS, SENTENCES = 3, 3
"""Nearest words of a token and nearest attribute sentences of an identity that are kept."""

IDENTITIES = 100
"""Identities that are listed; the first by label."""

FILE = "sentences.json"


def note_prompt_words(run: Run, dataset: ReIDDataset, method: Method, templates: Mapping[str, str]) -> None:
    """Write the nearest words and sentences of learned prompts to ``sentences.json``; called by all processes.

    Args:
        run: its folder gets the file, its number format is that of the text encoder.
        dataset: of the training; its attributes give the sentences.
        method: with its text encoder.
        templates: by attribute, the sentence with ``{}`` for its value.
    """
    path = run.output_dir / FILE
    tower = method.image_encoder.text
    if not method.has_sentences or tower is None or not tower.reads_words:
        if is_main():
            path.unlink(missing_ok=True)  # of a training before
        return
    method.eval()
    with torch.no_grad(), computing_in(run.precision.autocast):
        features = method.sentences()[:IDENTITIES].float()
        tokens = method.prompt_tokens()[:IDENTITIES].float()
        table = method.token_table().to(tokens.device).float()
        said = attribute_sentences(dataset, templates)
        known = sentence_features(method.text_encoder, table, tower.context, said) if said else features[:0]
    if not is_main():
        return
    words, near = nearest_words(tokens, table), nearest_sentences(features, known, said)
    names = dataset.train_identities
    rows: list[dict[str, Any]] = [
        {"identity": str(names[i]), "words": words[i], "sentences": near[i]} for i in range(len(tokens))
    ]
    save_json({"caution": CAUTION, "identities": rows}, path)
    LOGGER.info("words near the learned prompts of %d identities are in %s. %s", len(rows), path.name, CAUTION)


@functools.cache
def vocabulary_words() -> tuple[Tensor, list[str]]:
    """Numbers and texts of the tokens that are whole words of letters."""
    texts = {number: decode([number]) for number in range(START_OF_TEXT)}
    words = {number: text.strip() for number, text in texts.items() if text.endswith(" ") and text.strip().isalpha()}
    return torch.tensor(list(words)), list(words.values())


def nearest_words(tokens: Tensor, table: Tensor, count: int = WORDS) -> list[list[list[str]]]:
    """For each identity and each of its tokens the nearest words by the Euclidean distance.

    Args:
        tokens: learned embeddings [C, M, D].
        table: token embeddings [vocabulary, D].
        count: words for each token.
    """
    numbers, words = vocabulary_words()
    known = table[numbers.to(table.device)]
    found = [torch.cdist(one, known).topk(count, largest=False).indices.tolist() for one in tokens]
    return [[[words[i] for i in token] for token in one] for one in found]


def nearest_sentences(
    features: Tensor, known: Tensor, sentences: Sequence[str], count: int = SENTENCES
) -> list[list[tuple[str, float]]]:
    """For each identity the sentences of the highest cosine with its own, and that cosine.

    Args:
        features: of the identities' sentences [C, E].
        known: of the given sentences [N, E].
        sentences: the N sentences.
        count: sentences for each identity.
    """
    if not sentences:
        return [[] for _ in features]
    best = (F.normalize(features) @ F.normalize(known).T).topk(min(count, len(sentences)))
    return [
        [(sentences[i], value) for i, value in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def attribute_sentences(dataset: ReIDDataset, templates: Mapping[str, str]) -> list[str]:
    """A sentence for each value of each attribute of the training images; none where the data set has no attributes."""
    known = [dataset.attributes.get(record.path, {}) for record in dataset.train]
    values = {name: sorted({one[name] for one in known if name in one}) for name in templates}
    return list(dict.fromkeys(templates[name].format(value) for name, found in values.items() for value in found))

"""The report's part about sentences: their fit to the images, and the nearest words of their learned tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from processor.reports.prompt_words import CAUTION, FILE
from processor.runs.folder import RunFolder
from utils.errors import ReIDError
from utils.files.text_files import read_text
from utils.plots.html import escape, folded, table

COLUMNS = {
    "sentence_accuracy": ("own sentence is nearest (% of clean training images)", 100),
    "sentence_cosine": ("cosine of sentence and centroid", 1),
    "logit_span": ("span of the logits", 1),
    "length_product": ("lengths of image and text features, multiplied", 1),
    "alignment_left": ("alignment left (%)", 100),
}
"""Titles and factors of what :mod:`processor.training.alignment` measures."""


def sentences_section(run: RunFolder) -> str:
    """A row for the start and for each measured epoch of both stages; nothing where no sentences were learned."""
    rows = []
    kept = run.metrics.get("alignment", {})
    entries = [entry for entry in run.metrics["history"] if isinstance(entry, dict)]
    measured = [entry for entry in entries if isinstance(entry.get("sentence_accuracy"), Real)]
    for stage in sorted({str(entry.get("stage")) for entry in measured}):
        start = kept.get(stage)
        rows += [_row(stage, "start", start)] if isinstance(start, dict) else []
        rows += [_row(stage, entry.get("epoch"), entry) for entry in measured if str(entry.get("stage")) == stage]
    if not rows:
        return ""
    introduction = (
        "<p>Whether an image's nearest sentence is that of its own identity, on the training images without "
        "augmentation. Logits should span 5 to 40 in stage 1; after the first epoch of stage 2 much of the alignment "
        "should be left.</p>"
    )
    columns = ["stage", "epoch", *(title for title, _ in COLUMNS.values())]
    shown = table("Images and sentences", columns, rows, digits=2)
    return introduction + folded("Images and sentences by epoch", shown) + _words(run.folder / FILE)


def _words(path: Path) -> str:
    """The words and sentences near the learned prompts; nothing where no run wrote them.

    Raises:
        ReIDError: the file is not one that a run wrote.
    """
    if not path.is_file():
        return ""
    try:
        found = json.loads(read_text(path))["identities"]
        rows = [
            [
                str(row["identity"]),
                " | ".join(", ".join(map(str, words)) for words in row["words"]),
                " ".join(f"{text} ({float(cosine):.2f})" for text, cosine in row["sentences"]),
            ]
            for row in found
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ReIDError(
            f"{path}: not the words of a run ({type(error).__name__}). Remove it, or train again."
        ) from None
    columns = ["identity", "words near each learned token", "attribute sentences near its sentence (cosine)"]
    shown = table("Nearest words and sentences of learned prompts", columns, rows)
    return f"<p>{escape(CAUTION)}</p>" + folded("Words and sentences near the learned prompts", shown)


def _row(stage: str, epoch: object, found: Mapping[str, Any]) -> list[object]:
    values = {name: found.get(name) for name in COLUMNS}
    return [
        *(stage, str(epoch)),
        *(float(factor * values[n]) if isinstance(values[n], Real) else "" for n, (_, factor) in COLUMNS.items()),
    ]

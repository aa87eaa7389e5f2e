"""Whose hand is this? Enrol a folder of known hands and answer query images with a ranked table.

Identities are the names of the folders in GALLERY (or, without folders, file names up to the first underscore). The
similarity is the cosine of the features. With --far, answers are accepted from the similarity on at which that share
of the gallery's own pairs of different people would be accepted, one comparison at a time; a query is compared with
the whole gallery, so a stranger is accepted more often than that.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datasets.parsing.tables import csv_text
from processor.extract import Listed, extract, list_folder, open_embedder
from utils.biometric.calibration import Calibration
from utils.biometric.error_rates import FEWEST_FALSE_MATCHES
from utils.biometric.verification import verify
from utils.checkpoint import write_text
from utils.command_line import run_script
from utils.errors import ReIDError
from utils.images import AS_STORED, IMAGE_SUFFIXES, Reading, read_image
from utils.logger import LOGGER, setup_console
from utils.metrics import Features
from utils.plots.html import escape, page, table, thumbnail
from utils.retrieval.search import SEARCHES, require_faiss
from utils.terminal import show_results
from utils.text_files import printable

EXAMPLE = (
    "python -m processor.search --config_file configs/hand/demo.yml TEST.WEIGHT output/hand/demo/RN-Small_28.pth "
    "--gallery data/hands/test/gallery --queries who_is_this.jpg --far 0.01"
)
THUMBNAIL = 112
MAY_BE_EMPTY = ("accepted", "evidence")
"""Columns that only options fill."""


class Answer(NamedTuple):
    """One row of the table. ``accepted`` is empty without a threshold, else yes or no; ``evidence`` without --lr."""

    query: str
    rank: int
    identity: str
    similarity: float
    accepted: str
    image: str
    evidence: str = ""


def search(
    query: np.ndarray,
    names: Sequence[str],
    gallery: np.ndarray,
    listed: Sequence[Listed],
    top: int,
    threshold: float | None = None,
    how: str = "exact",
    calibration: Calibration | None = None,
) -> list[Answer]:
    """The ``top`` nearest images of each query, nearest first.

    Args:
        query, gallery: features [Q, D] and [G, D]; the gallery may be mapped from disk.
        names: of the queries [Q].
        listed: what the gallery's features are of [G].
        top: answers to a query.
        threshold: similarity from which an answer is accepted, None for no such judgement.
        how: a name in :data:`utils.retrieval.search.SEARCHES`; the recall of an approximate search is logged.
        calibration: from similarities to likelihood ratios, None for none.
    """
    nearest = SEARCHES[how](torch.from_numpy(query), gallery, top, metric="cosine")
    if how != "exact":
        LOGGER.info("approximate search: %.1f %% of the nearest %d were found", 100 * nearest.recall, top)
    answers = []
    for name, distances, index in zip(names, nearest.distances.tolist(), nearest.index.tolist(), strict=True):
        for rank, (distance, place) in enumerate(zip(distances, index, strict=True), 1):
            if place < 0:
                break
            similarity = 1 - distance
            accepted = "" if threshold is None else "yes" if similarity >= threshold else "no"
            evidence = "" if calibration is None else calibration.answer(similarity).text()
            answers.append(
                Answer(name, rank, listed[place].identity, similarity, accepted, listed[place].name, evidence)
            )
    return answers


def calibrate(gallery: np.ndarray, listed: Sequence[Listed], far: float) -> float:
    """Similarity at which a share of at most ``far`` of the gallery's pairs of different identities is accepted.

    Raises:
        ReIDError: ``far`` is no share, or the pairs are too few to tell.
    """
    if not 0 < far < 1:
        raise ReIDError(f"--far {far}: expected a share between 0 and 1, such as 0.01.")
    _, pids = np.unique([image.identity for image in listed], return_inverse=True)
    features = Features(torch.from_numpy(np.array(gallery)), pids, np.zeros_like(pids))
    metrics = verify(features, features, far=(far,))
    pairs, needed = metrics.num_impostor // 2, math.ceil(FEWEST_FALSE_MATCHES / far)
    if pairs < needed:
        least = FEWEST_FALSE_MATCHES / max(pairs, 1)
        step = 10 ** (math.floor(math.log10(least)) - 1)  # two digits, rounded up
        raise ReIDError(
            f"--far {far:g}: the gallery has {pairs:,} pairs of different people and {needed:,} are needed to find the "
            f"threshold. Enrol more images, or ask for a rate of {math.ceil(least / step) * step:.2g} or more."
        )
    refused = metrics.scores.accept_rate(far).above
    impostor = metrics.scores.scores[metrics.scores.impostor > 0]
    accepted = impostor[np.searchsorted(impostor, refused, side="right") :]
    # Halfway from the highest refused score to the lowest accepted one: answers in float32 come out on the same sides.
    return float(refused + accepted[0]) / 2 if len(accepted) else float(np.nextafter(refused, np.inf))


def as_text(answers: Sequence[Answer]) -> str:
    """Columns for people; see :func:`utils.text_files.printable` for names that are no plain text."""
    rows = [[name for name in Answer._fields if name not in MAY_BE_EMPTY or getattr(answers[0], name)]]
    rows += [[f"{v:.4f}" if isinstance(v, float) else printable(str(v)) for v in _shown(answer)] for answer in answers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join("  ".join(v.ljust(w) for v, w in zip(r, widths, strict=True)).rstrip() + "\n" for r in rows)


def _shown(answer: Answer) -> list:
    return [value for name, value in answer._asdict().items() if name not in MAY_BE_EMPTY or value]


def as_csv(answers: Sequence[Answer]) -> str:
    """Comma-separated values with a header."""
    return csv_text(Answer._fields, answers)


def as_json(answers: Sequence[Answer]) -> str:
    """A list of objects."""
    return json.dumps([answer._asdict() for answer in answers], indent=1) + "\n"


def as_html(answers: Sequence[Answer], gallery: Path, reading: Reading = AS_STORED) -> str:
    """A page with the images; a section for each query."""
    sections = []
    for query in dict.fromkeys(answer.query for answer in answers):
        short = "/".join(Path(query).parts[-2:])
        own = [answer for answer in answers if answer.query == query]
        pictures = "".join(
            f"<li{_frame(a)}>{thumbnail(read_image(gallery / a.image, reading), THUMBNAIL, f'{a.rank}: {a.identity}')}"
            f"<br>{a.rank}: {escape(a.identity)}<br>{a.similarity:.4f} {_words(a)}</li>"
            for a in own
        )
        asked = thumbnail(read_image(query, reading), 2 * THUMBNAIL, f"query {short}")
        columns = list(Answer._fields[1:])
        rows = table("Answers", columns, [a[1:] for a in own], digits=4)
        sections.append((short, f'<p>{asked}</p><ol class="sheet">{pictures}</ol>{rows}'))
    note = "<p>Photographs of hands are biometric data: keep this page as such.</p>"
    return page("Answers of the search", sections, note)


def _frame(answer: Answer) -> str:
    return {"yes": ' class="right"', "no": ' class="wrong"', "": ""}[answer.accepted]


def _words(answer: Answer) -> str:
    return {"yes": "accepted", "no": "refused", "": ""}[answer.accepted]


FORMATS = {"text": as_text, "csv": as_csv, "json": as_json}


def run(arguments: argparse.Namespace) -> None:
    """Enrol, ask, answer."""
    setup_console()
    if arguments.top < 1:
        raise ReIDError(f"--top {arguments.top}: expected at least 1.")
    if arguments.format == "html" and arguments.output is None:
        raise ReIDError("--format html: name the page, --output FILE.")
    if arguments.search == "faiss":
        require_faiss()
    queries = _queries(arguments.queries)
    embedder, source = open_embedder(arguments.config_file, arguments.opts)
    gallery, listed = extract(embedder, arguments.gallery, arguments.enrolled, source)
    LOGGER.info("%d images of %d identities are enrolled", len(listed), len({image.identity for image in listed}))
    calibration = embedder.calibration() if arguments.lr else None
    if calibration is not None:
        LOGGER.info(
            "likelihood ratios hold for %s; score limits %.4f to %.4f", calibration.population, *calibration.score_range
        )
    threshold = None if arguments.far is None else calibrate(gallery, listed, arguments.far)
    if threshold is not None:
        LOGGER.info("accepted from a similarity of %.4f on (false accept rate %g)", threshold, arguments.far)
    given = (arguments.top, threshold, arguments.search, calibration)
    answers = search(embedder.embed(queries), queries, gallery, listed, *given)
    if arguments.format == "html":
        text = as_html(answers, arguments.gallery, embedder.reading)
    else:
        text = FORMATS[arguments.format](answers)
    if arguments.output is None:
        show_results(text)
    else:
        write_text(arguments.output, text)
        LOGGER.info("%d answers in %s", len(answers), arguments.output)


def _queries(places: Sequence[Path]) -> list[str]:
    """Files as they are named, folders as the images in them."""
    found: list[str] = []
    for place in places:
        if place.is_dir():
            found += [str(place / image.name) for image in list_folder(place)]
        elif place.is_file():
            found.append(str(place))
        else:
            raise ReIDError(f"--queries {place}: no such file or folder.")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m processor.search",
        description=__doc__,
        epilog=f"example: {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config_file", metavar="FILE", required=True, help="YAML file of the training")
    add("--gallery", metavar="DIR", type=Path, required=True, help="folder of known hands, one folder a person")
    add(
        "--queries",
        metavar="PATH",
        type=Path,
        nargs="+",
        required=True,
        help=f"image files, or folders of them ({', '.join(sorted(IMAGE_SUFFIXES))})",
    )
    add(
        "--enrolled",
        metavar="DIR",
        type=Path,
        default=Path("output/enrolled"),
        help="where the gallery's features are kept and found again (default: %(default)s)",
    )
    add("--top", metavar="N", type=int, default=10, help="answers to a query (default: %(default)s)")
    add("--far", metavar="RATE", type=float, help="say which answers are accepted at this false accept rate")
    add("--lr", action="store_true", help="give each answer a likelihood ratio, by the calibration beside TEST.WEIGHT")
    add("--search", choices=SEARCHES, default="exact", help="faiss is approximate and tells its recall; for millions")
    add("--format", choices=(*FORMATS, "html"), default="text", help="of the answers (default: %(default)s)")
    add("--output", metavar="FILE", type=Path, help="where to write them; by default standard output")
    add("opts", nargs="*", metavar="KEY VALUE", help="pairs that override the file: TEST.WEIGHT PATH")
    return run_script(partial(run, parser.parse_intermixed_args(argv)))


if __name__ == "__main__":
    sys.exit(main())

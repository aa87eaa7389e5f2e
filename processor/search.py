"""Identify query images among enrolled hands: a table of the most similar people for each image.

Identities are the names of the folders in GALLERY (or, without folders, file names up to the first underscore). Each
has one answer, its most similar image. The similarity is the cosine of the features.

An answer is accepted from --threshold on. --far finds the threshold: the similarity that this share of the gallery's
own pairs of different people reaches. Where the best answer is below the threshold, the verdict is "not enrolled".
The rate holds for one comparison. A query is compared with all N images of the gallery, so a person who is not
enrolled is accepted with a probability of about 1 - (1 - FAR)^N, which the answers give too.

--text takes a sentence in place of query images, with a model whose text encoder is there: the images are ranked by the
cosine of their projected features with the sentence.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from configs import load_config
from datasets.parsing.tables import csv_text
from model.sentences import sentence_encoder
from processor.extract import Listed, extract, list_folder, open_embedder
from processor.point_search import Detail
from utils.biometric.confidence import rule_of_3
from utils.biometric.error_rates import FEWEST_FALSE_MATCHES
from utils.biometric.scores.calibration import Calibration
from utils.biometric.verification import percent, verify
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_console
from utils.console.terminal import show_results
from utils.errors import ReIDError
from utils.files.checkpoint import write_text
from utils.files.text_files import printable
from utils.images import AS_STORED, IMAGE_SUFFIXES, Reading, read_image
from utils.metrics import Features
from utils.plots.html import escape, page, picture_of, table, thumbnail
from utils.retrieval.points import require_opencv
from utils.retrieval.search import SEARCHES, require_faiss

_ENROLLED = (
    "python -m processor.search --config_file configs/hand/demo.yml TEST.WEIGHT output/hand/demo/RN-Small_16.pth "
    "--gallery data/hands/test/gallery"
)
EXAMPLES = (
    f"{_ENROLLED} --queries unknown.jpg --far 0.01",
    f"{_ENROLLED} --queries data/hands/test/query --format html --output answers.html",
    f"{_ENROLLED} --text 'A photo of a palmar right hand.'",
)
THUMBNAIL = 112
NOT_ENROLLED = "not enrolled"
MAY_BE_EMPTY = ("accepted", "evidence", "points")
"""Columns that only options fill."""

OF_SENTENCES = ("TEST.FEATURE", "projected", "TEST.NECK_FEAT", "before", "TEST.FEAT_NORM", "yes")
"""Settings of the features that are compared with sentences."""

OF_THE_QUERY = ("verdict", "gallery_far")
"""Fields that are equal in all answers to a query: tables for people give them once, below the rows."""


class Threshold(NamedTuple):
    """From which similarity on an answer is accepted, and the false accept rate of one comparison, None if unknown."""

    similarity: float
    far: float | None = None

    def gallery_far(self, images: int) -> float | None:
        """Probability that a person who is not enrolled is accepted by one of ``images`` independent comparisons.

        Images of one person are alike, so that the true probability is rather lower.
        """
        return None if self.far is None else 1 - (1 - self.far) ** images


class Answer(NamedTuple):
    """One enrolled person, by the most similar image, or with --points by the image with most agreeing points.

    ``accepted`` (yes or no) and ``verdict`` (the person, or :data:`NOT_ENROLLED`) are empty without a threshold,
    ``evidence`` without --lr, ``points`` (None) without --points or beyond its images. ``gallery_far`` is that of
    :class:`Threshold`, None where it is not known.
    """

    query: str
    rank: int
    identity: str
    similarity: float
    accepted: str
    image: str
    evidence: str = ""
    points: int | None = None
    verdict: str = ""
    gallery_far: float | None = None


def search(
    query: np.ndarray,
    names: Sequence[str],
    gallery: np.ndarray,
    listed: Sequence[Listed],
    top: int,
    threshold: Threshold | None = None,
    how: str = "exact",
    calibration: Calibration | None = None,
    detail: Detail | None = None,
) -> list[Answer]:
    """The ``top`` most similar people of each query, best first; those of equal similarity by gallery index.

    With ``detail``, the most similar images come first, ordered by agreeing points, equal ones by similarity.

    Args:
        query, gallery: features [Q, D] and [G, D]; the gallery may be mapped from disk.
        names: of the queries [Q].
        listed: what the gallery's features are of [G].
        top: answers to a query; fewer where fewer people are enrolled.
        threshold: decides acceptance, None for no decision.
        how: a name in :data:`utils.retrieval.search.SEARCHES`; the recall of an approximate search is logged.
        calibration: from similarities to likelihood ratios, None for none.
        detail: counts agreeing points of queries and gallery images, None for none.
    """
    images = Counter(image.identity for image in listed)
    # A list of this length holds one more person than the images of any top - 1 people can fill.
    length = max(1 + sum(count for _, count in images.most_common(top - 1)), detail.nearest if detail else 0)
    nearest = SEARCHES[how](torch.from_numpy(query), gallery, length, metric="cosine")
    if how != "exact":
        LOGGER.info("approximate search: %.1f %% of the nearest %d were found", 100 * nearest.recall, length)
    rate = None if threshold is None else threshold.gallery_far(len(listed))
    answers = []
    for name, distances, index in zip(names, nearest.distances.tolist(), nearest.index.tolist(), strict=True):
        best: dict[str, tuple[float, Listed, int | None]] = {}
        found = [(place, distance, None) for place, distance in zip(index, distances, strict=True) if place >= 0]
        for place, distance, points in found if detail is None else detail.ordered(name, found):
            best.setdefault(listed[place].identity, (1 - distance, listed[place], points))
        verdict = ""
        for rank, (identity, (similarity, image, points)) in enumerate(list(best.items())[:top], 1):
            accepted = "" if threshold is None else "yes" if similarity >= threshold.similarity else "no"
            if rank == 1:
                verdict = {"": "", "yes": identity, "no": NOT_ENROLLED}[accepted]
            evidence = "" if calibration is None else calibration.answer(similarity).text()
            answers.append(
                Answer(name, rank, identity, similarity, accepted, image.name, evidence, points, verdict, rate)
            )
    return answers


def calibrate(gallery: np.ndarray, listed: Sequence[Listed], far: float) -> float:
    """Similarity at which a share of at most ``far`` of the gallery's pairs of different identities is accepted.

    Raises:
        ReIDError: ``far`` is no share, or the pairs are too few.
    """
    if not 0 < far < 1:
        raise ReIDError(f"--far {far}: expected a share between 0 and 1, such as 0.01.")
    features = _labelled(gallery, listed)
    metrics = verify(features, features, far=(far,))
    pairs, needed = metrics.num_impostor // 2, math.ceil(FEWEST_FALSE_MATCHES / far)
    if pairs < needed:
        least = FEWEST_FALSE_MATCHES / max(pairs, 1)
        step = 10 ** (math.floor(math.log10(least)) - 1)  # two digits, rounded up
        raise ReIDError(
            f"--far {far:g}: the gallery has {pairs:,} pairs of different people and {needed:,} are needed to find the "
            f"threshold. Enrol more images, or choose a rate of {math.ceil(least / step) * step:.2g} or more."
        )
    refused = metrics.scores.accept_rate(far).above
    impostor = metrics.scores.scores[metrics.scores.impostor > 0]
    accepted = impostor[np.searchsorted(impostor, refused, side="right") :]
    # Halfway from the highest refused score to the lowest accepted one: answers in float32 come out on the same sides.
    return float(refused + accepted[0]) / 2 if len(accepted) else float(np.nextafter(refused, np.inf))


def measure_far(gallery: np.ndarray, listed: Sequence[Listed], similarity: float) -> float | None:
    """Share of the gallery's pairs of different identities that reach ``similarity``; None where no pair does.

    Raises:
        ReIDError: ``similarity`` is no cosine.
    """
    if not -1 <= similarity <= 1:
        raise ReIDError(f"--threshold {similarity}: expected a cosine similarity, -1 to 1.")
    features = _labelled(gallery, listed)
    if len(np.unique(features.pids)) < 2:
        return None
    false_match_rate, _ = verify(features, features, thresholds=(similarity,)).rates_at[similarity]
    return false_match_rate or None


def _labelled(gallery: np.ndarray, listed: Sequence[Listed]) -> Features:
    _, pids = np.unique([image.identity for image in listed], return_inverse=True)
    return Features(torch.from_numpy(np.array(gallery)), pids, np.zeros_like(pids))


def as_text(answers: Sequence[Answer]) -> str:
    """Columns for people, then the verdict on each query and what the false accept rate means.

    See :func:`utils.files.text_files.printable` for names that are no plain text.
    """
    columns = _columns(answers)
    rows = [columns]
    for answer in answers:
        values = _values(answer, columns)
        rows.append([f"{v:.4f}" if isinstance(v, float) else printable(str(v)) for v in values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    lines = ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"verdict on {printable(a.query)}: {printable(a.verdict)}" for a in answers if a.rank == 1 and a.verdict]
    lines += _meaning(answers)
    return "".join(f"{line}\n" for line in lines)


def _columns(answers: Sequence[Answer]) -> list[str]:
    """Fields of a table for people: not those that are empty or that belong to the query."""
    own = [name for name in Answer._fields if name not in OF_THE_QUERY]
    return [name for name in own if name not in MAY_BE_EMPTY or getattr(answers[0], name) not in ("", None)]


def _values(answer: Answer, columns: Sequence[str]) -> list[object]:
    """Fields of a row; what is not known is empty."""
    return ["" if (value := getattr(answer, column)) is None else value for column in columns]


def _meaning(answers: Sequence[Answer]) -> list[str]:
    """What the false accept rate of one comparison is in this gallery, where it is known."""
    rate = answers[0].gallery_far
    if rate is None:
        return []
    return [f"probability that a person who is not enrolled is accepted in this gallery: about {percent(rate)}"]


def as_csv(answers: Sequence[Answer]) -> str:
    """Comma-separated values with a header."""
    return csv_text(Answer._fields, answers)


def as_json(answers: Sequence[Answer]) -> str:
    """A list of objects."""
    return json.dumps([answer._asdict() for answer in answers], indent=1) + "\n"


def as_html(
    answers: Sequence[Answer],
    gallery: Path,
    reading: Reading = AS_STORED,
    pictured: bool = True,
    detail: Detail | None = None,
) -> str:
    """A page with the images; a section for each query, which is not ``pictured`` where it is a sentence.

    With ``detail``, the section has the chart of the first answer.
    """
    sections = []
    for query in dict.fromkeys(answer.query for answer in answers):
        short = "/".join(Path(query).parts[-2:]) if pictured else query
        own = [answer for answer in answers if answer.query == query]
        pictures = "".join(
            f"<li{_frame(a)}>{thumbnail(read_image(gallery / a.image, reading), THUMBNAIL, f'{a.rank}: {a.identity}')}"
            f"<br>{a.rank}: {escape(a.identity)}<br>{a.similarity:.4f} {_words(a)}</li>"
            for a in own
        )
        picture = thumbnail(read_image(query, reading), 2 * THUMBNAIL, f"query {short}") if pictured else escape(query)
        columns = _columns(answers)[1:]
        rows = table("Answers", columns, [_values(a, columns) for a in own], digits=4)
        said = f"<p>Verdict: <b>{escape(own[0].verdict)}</b></p>" if own[0].verdict else ""
        chart = "" if detail is None else _chart(detail, own[0], gallery)
        sections.append((short, f'<p>{picture}</p>{said}<ol class="sheet">{pictures}</ol>{rows}{chart}'))
    note = "".join(f"<p>{line.capitalize()}.</p>" for line in _meaning(answers))
    note += "<p>Photographs of hands are biometric data: keep this page as such.</p>"
    return page("Answers of the search", sections, note)


def _chart(detail: Detail, answer: Answer, gallery: Path) -> str:
    """The numbered points of an answer."""
    title = f"rank {answer.rank}, {printable(answer.identity)}"
    drawn = detail.chart(answer.query, str(gallery / answer.image), title)
    meaning = "Equal numbers mark places of the skin that were matched. A count is not a likelihood ratio."
    return picture_of(drawn, "Agreeing points of the first answer", meaning)


def _frame(answer: Answer) -> str:
    return {"yes": ' class="right"', "no": ' class="wrong"', "": ""}[answer.accepted]


def _words(answer: Answer) -> str:
    return {"yes": "accepted", "no": "refused", "": ""}[answer.accepted]


FORMATS = {"text": as_text, "csv": as_csv, "json": as_json}


def run(arguments: argparse.Namespace) -> None:
    """Enrol the gallery, search the queries, write the answers."""
    setup_console()
    if arguments.top < 1:
        raise ReIDError(f"--top {arguments.top}: expected at least 1.")
    if arguments.points is not None:
        require_opencv("--points")
        if arguments.points < 1:
            raise ReIDError(f"--points {arguments.points}: expected the number of images to compare, such as 100.")
        if arguments.text is not None:
            raise ReIDError("--points with --text: a sentence has no skin to compare. Leave one of them out.")
    if arguments.format == "html" and arguments.output is None:
        raise ReIDError("--format html: name the page, --output FILE.")
    if arguments.search == "faiss":
        require_faiss()
    queries = _queries(arguments.queries or ())
    if arguments.text is not None and (arguments.far or arguments.threshold or arguments.lr):
        raise ReIDError(
            "--text with --far, --threshold or --lr: these are known for pairs of images, not for an image and a "
            "sentence. Leave them out."
        )
    overrides = [*arguments.opts, *(() if arguments.text is None else OF_SENTENCES)]
    embedder, source = open_embedder(arguments.config_file, overrides)
    gallery, listed = extract(embedder, arguments.gallery, arguments.enrolled, source)
    LOGGER.info("%d images of %d identities are enrolled", len(listed), len({image.identity for image in listed}))
    calibration = embedder.calibration() if arguments.lr else None
    if calibration is not None:
        LOGGER.info(
            "likelihood ratios hold for %s; score limits %.4f to %.4f", calibration.population, *calibration.score_range
        )
    threshold = _threshold(arguments, gallery, listed)
    detail = None
    if arguments.points is not None:
        paths = [str(arguments.gallery / image.name) for image in listed]
        detail = Detail(arguments.points, paths, arguments.enrolled, embedder.reading)
        LOGGER.info("ordered by agreeing points; accepted by the similarity of the image that is shown")
    given = (arguments.top, threshold, arguments.search, calibration, detail)
    if arguments.text is None:
        query, names = embedder.embed(queries), queries
    else:
        query, names = _sentence(arguments.config_file, overrides, arguments.text, gallery), [arguments.text]
    answers = search(query, names, gallery, listed, *given)
    if arguments.format == "html":
        text = as_html(answers, arguments.gallery, embedder.reading, arguments.text is None, detail)
    else:
        text = FORMATS[arguments.format](answers)
    if arguments.output is None:
        show_results(text)
    else:
        write_text(arguments.output, text)
        LOGGER.info("%d answers in %s", len(answers), arguments.output)


def _sentence(config_file: str, overrides: Sequence[str], sentence: str, gallery: np.ndarray) -> np.ndarray:
    """The feature [1, E] of ``sentence``, for a gallery of projected features [G, E]."""
    cfg, _ = load_config(config_file, overrides)
    feature = sentence_encoder(cfg)([sentence]).numpy()
    if feature.shape[1] != gallery.shape[1]:
        raise ReIDError(
            f"MODEL.METHOD {cfg.MODEL.METHOD} gives images features of {gallery.shape[1]} numbers and sentences "
            f"{feature.shape[1]}: they can't be compared. Take MODEL.METHOD clipreid or zeroshot."
        )
    return feature


def _threshold(arguments: argparse.Namespace, gallery: np.ndarray, listed: Sequence[Listed]) -> Threshold | None:
    """The threshold that --far or --threshold sets, with its meaning in the log."""
    if arguments.far is not None:
        found = Threshold(calibrate(gallery, listed, arguments.far), arguments.far)
    elif arguments.threshold is not None:
        found = Threshold(arguments.threshold, measure_far(gallery, listed, arguments.threshold))
    else:
        return None
    LOGGER.info("accepted from a similarity of %.4f on", found.similarity)
    if found.far is None:
        people = len({image.identity for image in listed})
        LOGGER.info(
            "no pair of different people in the gallery reaches it: the false accept rate is not known (%s)",
            f"below {percent(rule_of_3(people))} by the rule of 3 over {people} people" if people > 3 else "few people",
        )
    else:
        rates = (percent(found.far), len(listed), percent(found.gallery_far(len(listed)) or 0))
        LOGGER.info("false accept rate: %s for one comparison; with %d enrolled images about %s for a query", *rates)
    return found


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
    parser = make_parser("python -m processor.search", __doc__, EXAMPLES)
    add = parser.add_argument_group("model").add_argument
    add("--config_file", metavar="FILE", required=True, help="YAML file of the training")
    add("opts", nargs="*", metavar="KEY VALUE", help="configuration keys that override the file: TEST.WEIGHT PATH")
    images = parser.add_argument_group("images")
    add = images.add_argument
    add("--gallery", metavar="DIR", type=Path, required=True, help="folder of known hands, one folder a person")
    query = images.add_mutually_exclusive_group(required=True).add_argument
    query("--text", metavar="SENTENCE", help="search by a sentence in place of images")
    query(
        "--queries",
        metavar="PATH",
        type=Path,
        nargs="+",
        help=f"image files, or folders of them ({', '.join(sorted(IMAGE_SUFFIXES))})",
    )
    add(
        "--enrolled",
        metavar="DIR",
        type=Path,
        default=Path("output/enrolled"),
        help="folder that caches the gallery's features (default: %(default)s)",
    )
    acceptance = parser.add_argument_group("acceptance")
    accept = acceptance.add_mutually_exclusive_group().add_argument
    accept("--far", metavar="RATE", type=float, help="accept answers at this false accept rate of one comparison")
    accept("--threshold", metavar="COSINE", type=float, help="accept answers from this similarity on")
    acceptance.add_argument(
        "--lr", action="store_true", help="give each answer a likelihood ratio, by the calibration beside TEST.WEIGHT"
    )
    add = parser.add_argument_group("search").add_argument
    add("--points", metavar="N", type=int, help="order the N most similar images by agreeing skin points (OpenCV)")
    add("--search", choices=SEARCHES, default="exact", help="faiss is approximate and logs its recall; for millions")
    add = parser.add_argument_group("answers").add_argument
    add("--top", metavar="N", type=int, default=10, help="people to a query (default: %(default)s)")
    add("--format", choices=(*FORMATS, "html"), default="text", help="of the answers (default: %(default)s)")
    add("--output", metavar="FILE", type=Path, help="where to write them; by default standard output")
    return run_script(partial(run, parser.parse_intermixed_args(argv)))


if __name__ == "__main__":
    sys.exit(main())

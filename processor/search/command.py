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
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from configs import load_config
from model.sentences import sentence_encoder
from processor.extract import Listed, extract, list_folder, open_embedder
from processor.search.answers import search
from processor.search.formats import FORMATS, as_html
from processor.search.points import Detail
from processor.search.thresholds import Threshold, calibrate, measure_far
from utils.biometric.confidence import rule_of_3
from utils.biometric.verification import percent
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_console
from utils.console.terminal import show_results
from utils.errors import ReIDError
from utils.files.checkpoint import write_text
from utils.images import IMAGE_SUFFIXES
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

OF_SENTENCES = ("TEST.FEATURE", "projected", "TEST.NECK_FEAT", "before", "TEST.FEAT_NORM", "yes")
"""Settings of the features that are compared with sentences."""


def run(arguments: argparse.Namespace) -> None:
    """Enrol the gallery, search the queries, write the answers."""
    setup_console()
    _check(arguments)
    queries = _queries(arguments.queries or ())
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
    if arguments.text is None:
        query, names = embedder.embed(queries), queries
    else:
        query, names = _sentence(arguments.config_file, overrides, arguments.text, gallery), [arguments.text]
    how = (arguments.top, threshold, arguments.search, calibration, detail)
    answers = search(query, names, gallery, listed, *how)
    if arguments.format == "html":
        text = as_html(answers, arguments.gallery, embedder.reading, arguments.text is None, detail)
    else:
        text = FORMATS[arguments.format](answers)
    if arguments.output is None:
        show_results(text)
    else:
        write_text(arguments.output, text)
        LOGGER.info("%d answers in %s", len(answers), arguments.output)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is read."""
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
    if arguments.text is not None and (arguments.far or arguments.threshold or arguments.lr):
        raise ReIDError(
            "--text with --far, --threshold or --lr: these are known for pairs of images, not for an image and a "
            "sentence. Leave them out."
        )


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
    LOGGER.info("answers are accepted at a similarity of %.4f or more", found.similarity)
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
    accept("--threshold", metavar="COSINE", type=float, help="accept answers of at least this cosine similarity")
    acceptance.add_argument(
        "--lr", action="store_true", help="give each answer a likelihood ratio, by the calibration beside TEST.WEIGHT"
    )
    add = parser.add_argument_group("search").add_argument
    add("--points", metavar="N", type=int, help="order the N most similar images by agreeing skin points (OpenCV)")
    add("--search", choices=SEARCHES, default="exact", help="faiss is approximate and logs its recall; for millions")
    add = parser.add_argument_group("answers").add_argument
    add("--top", metavar="N", type=int, default=10, help="people per query (default: %(default)s)")
    add("--format", choices=(*FORMATS, "html"), default="text", help="format of the answers (default: %(default)s)")
    add("--output", metavar="FILE", type=Path, help="where to write them; by default standard output")
    return run_script(partial(run, parser.parse_intermixed_args(argv)))

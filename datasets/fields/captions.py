"""Sentences about images, for training images against them: given ones, or made of attributes by templates.

A sentence of attributes is drawn again each time an image is read. ``SOLVER.STAGE0.PLAIN_SHARE`` of them are plain
("palm of a left hand"): from detailed sentences alone a small network does not learn which hand it sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.bases import some
from datasets.hands.attributes import TEMPLATES, Attributes
from datasets.parsing.splits import inside
from datasets.parsing.tables import read_table
from utils.errors import ReIDError
from utils.files.text_files import nfc
from utils.words import number_of

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset

FILE = "captions.csv"
"""In ``DATASETS.ROOT_DIR``, unless ``DATASETS.CAPTIONS`` names another file."""
COLUMN = "caption"
"""Of a listing."""
SINGLE = 0.4
"""Share of the other sentences that name one attribute; the rest is detailed."""
SHORTEST = 0.9
"""Share of the plain sentences that are the first of their kind, so that many images of a batch share one."""
KEPT = 0.6
"""Probability that a detailed sentence names an attribute."""

SIDES = {"palmar": ("palm", "palmar side", "inside"), "dorsal": ("back", "dorsal side", "back")}
PLAIN_SENTENCES = ("{side} of a {hand} hand", "The {side} of a {hand} hand.", "A photo of the {side} of a {hand} hand.")
OPENINGS = ("", "The ", "A photo of the ", "A picture of the ", "A close photo of the ")
DETAILS = {
    "skin": ("{} skin",),
    "fingers": ("{} fingers",),
    "nails": ("{} nails",),
    "veins": ("{} veins",),
    "lines": ("{} lines",),
    "marks": ("{}",),
    "accessories": ("accessories",),
    "irregularities": ("irregularities",),
}
"""What may follow "with"; the last two are named only where their value is "with"."""
FINGERS = {"closed": "fingers held together", "spread": "fingers spread"}


class Captions:
    """The sentences of a data set's images.

    Args:
        given: by path, sentences of which one is drawn.
        attributes: by path, for images without given sentences.
        plain: share of plain sentences among those of attributes.
    """

    def __init__(
        self, given: Mapping[str, Sequence[str]], attributes: Mapping[str, Attributes], plain: float = 0.7
    ) -> None:
        self.given, self.attributes, self.plain = given, attributes, plain

    @property
    def sentences(self) -> list[str]:
        """All that are given."""
        return [sentence for some in self.given.values() for sentence in some]

    def draw(self, path: str, seed: int) -> str:
        """A sentence about the image at ``path``, a function of both arguments."""
        rng = np.random.default_rng((seed, len(path)))
        sentences = self.given.get(path)
        if sentences:
            return sentences[int(rng.integers(len(sentences)))]
        return draw_sentence(self.attributes[path], rng, self.plain)

    def detailed(self, path: str) -> str:
        """The first of the given sentences, or one with all attributes."""
        given = self.given.get(path)
        return given[0] if given else _detailed(known_attributes(self.attributes[path]), np.random.default_rng(0))

    def possible(self, path: str) -> Sequence[str]:
        """The given sentences, or those of the image's attributes."""
        return self.given.get(path) or [sentence for sentence in self.attribute_sentences(path) if sentence]

    def attribute_sentences(self, path: str) -> list[str]:
        """A sentence for each attribute in the order of the templates, and the plain one; "" without a value."""
        known = self.attributes.get(path, {})
        said = [template.format(known[name]) if name in known else "" for name, template in TEMPLATES.items()]
        return [*said, _plainest(known) if {"side", "hand"} <= known.keys() else ""]

    def covers(self, path: str) -> bool:
        """Whether there is a sentence about the image."""
        return bool(self.given.get(path)) or not TEMPLATES.keys().isdisjoint(self.attributes.get(path, {}))


class AttributeClasses:
    """The attributes of the training images as classes, each with its sentence.

    Args:
        captions: of the data set.
        paths: of the training images.

    Attributes:
        sentences: for each attribute with at least two values, those of its classes.
    """

    def __init__(self, captions: Captions, paths: Sequence[str]) -> None:
        self.captions = captions
        columns = zip(*(captions.attribute_sentences(path) for path in paths), strict=True)
        found = {i: tuple(sorted(set(column) - {""})) for i, column in enumerate(columns)}
        self._columns = [i for i, sentences in found.items() if len(sentences) > 1]
        self.sentences = tuple(found[i] for i in self._columns)

    def labels(self, path: str) -> list[int]:
        """The class of each attribute, -1 where its value is not known."""
        said = self.captions.attribute_sentences(path)
        return [
            classes.index(said[i]) if said[i] else -1 for i, classes in zip(self._columns, self.sentences, strict=True)
        ]


def draw_sentence(attributes: Attributes, rng: np.random.Generator, plain: float) -> str:
    """A plain sentence with probability ``plain``, else one about a single attribute, or a detailed one."""
    kind = rng.random()
    if kind < plain and {"side", "hand"} <= attributes.keys():
        words, templates = SIDES.get(attributes["side"], (attributes["side"],)), PLAIN_SENTENCES
        if rng.random() < SHORTEST:
            words, templates = words[:1], templates[:1]
        return _one(templates, rng).format(side=_one(words, rng), hand=attributes["hand"])
    known = known_attributes(attributes)
    if kind < plain + SINGLE * (1 - plain) or len(known) == 1:
        name = list(known)[int(rng.integers(len(known)))]
        return TEMPLATES[name].format(known[name])
    return _detailed({name: value for name, value in known.items() if name == "side" or rng.random() < KEPT}, rng)


def _plainest(attributes: Attributes) -> str:
    """Such as "palm of a left hand"."""
    side = attributes["side"]
    return PLAIN_SENTENCES[0].format(side=SIDES.get(side, (side,))[0], hand=attributes["hand"])


def known_attributes(attributes: Attributes) -> dict[str, str]:
    """Those that sentences can describe, in the order of the templates."""
    return {name: attributes[name] for name in TEMPLATES if name in attributes}


def _detailed(known: Mapping[str, str], rng: np.random.Generator) -> str:
    """Such as "A photo of the back of a slender left hand of a young person with fair skin, on a grey table."."""
    words = [known.get("build", ""), known.get("hand", ""), "hand"]
    noun = " ".join(word for word in words if word)
    side = f"{_one(SIDES.get(known['side'], (known['side'],)), rng)} of a " if "side" in known else ""
    opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
    if not side:
        opening = opening.replace("The ", "A ").replace(" the ", " a ")
    owner = " ".join(known[name] for name in ("age", "gender") if name in known)
    details = [
        _one(DETAILS[name], rng).format(known[name]) for name in DETAILS if known.get(name, "without") != "without"
    ]
    details += [FINGERS.get(known["pose"], f"{known['pose']} fingers")] if "pose" in known else []
    rng.shuffle(details)
    sentence = f"{opening}{side}{noun}"
    sentence += f" of a {owner} person" if owner else ""
    sentence += f" with {_listed(details)}" if details else ""
    return sentence + (f", on a {known['table']} table" if "table" in known else "") + "."


def _one(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def _listed(details: Sequence[str]) -> str:
    return ", ".join(details[:-1]) + (" and " if len(details) > 1 else "") + details[-1]


def captions_of(cfg: CfgNode, dataset: ReIDDataset) -> Captions:
    """The sentences about the training images of ``dataset``.

    In order of preference: the file ``DATASETS.CAPTIONS``, or captions.csv in ``DATASETS.ROOT_DIR``, with the columns
    ``path`` and ``caption`` and any number of rows for an image; the column ``caption`` of a listing; attributes.

    Raises:
        ReIDError: the file names images that are not there, images have no sentence, all have the same one, or mirror
            images would make sentences about left and right hands wrong.
    """
    file = Path(cfg.DATASETS.CAPTIONS) if cfg.DATASETS.CAPTIONS else Path(cfg.DATASETS.ROOT_DIR) / FILE
    if cfg.DATASETS.CAPTIONS or file.is_file():
        given = _read(file, Path(cfg.DATASETS.ROOT_DIR), dataset)
    else:
        given = {path: (known[COLUMN],) for path, known in dataset.attributes.items() if known.get(COLUMN)}
    captions = Captions(given, dataset.attributes, cfg.SOLVER.STAGE0.PLAIN_SHARE)
    lost = [record.path for record in dataset.train if not captions.covers(record.path)]
    if lost:
        raise ReIDError(
            f"{dataset.name}: {len(lost)} of {len(dataset.train)} training images have no sentence, which stage 0 "
            f"trains on: {some(lost)}. Give them one in {file} (columns path,caption), in a column {COLUMN!r} of the "
            f"listing, or in columns of attributes ({', '.join(TEMPLATES)})."
        )
    _check_varied(captions, dataset)
    _check_mirroring(cfg, captions, dataset)
    return captions


def classes_of(cfg: CfgNode, dataset: ReIDDataset, captions: Captions) -> AttributeClasses:
    """The attributes that stage 0 classifies.

    Raises:
        ReIDError: no attribute has two values among the training images.
    """
    classes = AttributeClasses(captions, [record.path for record in dataset.train])
    if not classes.sentences:
        raise ReIDError(
            f"SOLVER.STAGE0.ATTRIBUTE_WEIGHT = {cfg.SOLVER.STAGE0.ATTRIBUTE_WEIGHT:g}, but no attribute "
            f"({', '.join(TEMPLATES)}) has two values among the training images of {dataset.name}. Add such columns to "
            "the listing, or set it to 0."
        )
    return classes


def _read(file: Path, root: Path, dataset: ReIDDataset) -> dict[str, list[str]]:
    """Sentences by the path of the image."""
    images = (*dataset.train, *dataset.val, *dataset.test_images)
    own = {nfc(path): path for path in (record.path for record in images)}
    found: dict[str, list[str]] = {}
    absent: list[str] = []
    for row in read_table(file, ("path", COLUMN)).rows:
        name, sentence = row.cells["path"], row.cells[COLUMN]
        if not sentence:
            raise ReIDError(f"{file}: {row.place}, column {COLUMN!r} is empty; write a sentence or remove the row.")
        path = own.get(nfc(f"{getattr(dataset, 'root', root)}/{inside(name) or name}"))
        if path is None:
            absent.append(name)
        else:
            found.setdefault(path, []).append(sentence)
    if absent:
        raise ReIDError(
            f"{file}: {number_of(len(absent), 'image')} of it are not in {dataset.name}: {some(absent)}. Paths are "
            "relative to the data set's folder; remove these rows or correct them."
        )
    return found


def _check_varied(captions: Captions, dataset: ReIDDataset) -> None:
    """Of the same sentences for all images nothing can be learned."""
    said = {frozenset(captions.possible(record.path)) for record in dataset.train}
    if len(said) == 1:
        raise ReIDError(
            f"{dataset.name}: all {len(dataset.train)} training images have the same sentences, such as "
            f"{min(said.pop())!r}. Stage 0 compares images with different sentences: describe what differs."
        )


def _check_mirroring(cfg: CfgNode, captions: Captions, dataset: ReIDDataset) -> None:
    """A mirrored left hand is a right hand."""
    if not cfg.INPUT.PROB:
        return
    for record in dataset.train:
        said = " ".join(captions.given.get(record.path, ())).lower().split()
        if captions.attributes.get(record.path, {}).get("hand") or {"left", "right"} & set(said):
            raise ReIDError(
                f"INPUT.PROB = {cfg.INPUT.PROB:g} mirrors images at random, and sentences say left or right: "
                f"{captions.draw(record.path, 0)!r} would be wrong. Set INPUT.PROB to 0 for stage 0."
            )

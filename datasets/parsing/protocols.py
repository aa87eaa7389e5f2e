"""Who trains, who is enrolled and who probes: from images with named groups to the rows of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from datasets.bases import some
from datasets.parsing.conditions import Condition, matcher, read_conditions
from datasets.parsing.splits import SplitRow, take_one_each
from utils.errors import ReIDError
from utils.words import number_of

HALF = "{person: 50%}"
NONE = "none"
"""Value of DATASETS.TRAIN where nothing trains."""


class NamedImage(NamedTuple):
    """One image and what its name says.

    Attributes:
        row: path, identity, camera, view and attributes; its split is not decided yet.
        groups: text of each group of the name, ``identity`` and ``person`` always among them.
    """

    row: SplitRow
    groups: Mapping[str, str]

    @property
    def person(self) -> str:
        """Whose hand it is; the identity where the name does not say."""
        return self.groups["person"]


class Roles(NamedTuple):
    """What ``DATASETS`` says of a protocol; see docs/datasets.md.

    Attributes:
        protocol: ``open``, ``closed``, ``all_pairs`` or ``fvc``.
        train, enrol, probe: conditions on groups as text.
        run, runs: number of the first random choice of enrolled images and how many there are, where neither ``enrol``
            nor ``probe`` says which images are enrolled.
        seed: of these choices and of shares of people.
        hold_out: keep one image of each training identity for validation.
    """

    protocol: str = "open"
    train: str = ""
    enrol: str = ""
    probe: str = ""
    run: int = 0
    runs: int = 1
    seed: int = 0
    hold_out: bool = False


Images = Sequence[NamedImage]


def assign(
    images: Images, roles: Roles, groups: Collection[str], require_train: bool
) -> tuple[dict[int | None, list[SplitRow]], list[str]]:
    """The rows of each split by its number (None: there is one fixed split), and notes.

    Raises:
        ReIDError: conditions that name an unknown group, leave a role empty, or put people or images on both sides.
    """
    conditions = {
        key: read_conditions(f"DATASETS.{key}", text, groups)
        for key, text in (
            ("TRAIN", "" if roles.train.strip() == NONE else roles.train),
            ("ENROL", roles.enrol),
            ("PROBE", roles.probe),
        )
    }
    protocol = _closed if roles.protocol == "closed" else _open
    train, enrolled, probes, notes = protocol(images, roles, conditions)
    if require_train and not train:
        raise ReIDError(
            f"DATASETS.TRAIN {roles.train!r} leaves no image to train on ({len(images)} images). To test a model "
            "without training data, use test_clipreid.py."
        )
    rows = _training_rows(train, roles)
    if enrolled is None:
        people = _paths_by_identity(probes)
        drawn = {
            run: rows + _with_labels(take_one_each(people, "gallery", "query", roles.seed, "gallery", run), probes)
            for run in range(roles.run, roles.run + roles.runs)
        }
        return drawn, notes
    for key, role, part in (("ENROL", "gallery", enrolled), ("PROBE", "query", probes)):
        if not part:
            raise ReIDError(f"DATASETS.{key}: no image is left for the {role}. {_remaining(images, conditions)}")
    rows += [image.row._replace(split="query") for image in probes]
    rows += [image.row._replace(split="gallery") for image in enrolled]
    return {None: rows}, notes


def training_images(images: Images, roles: Roles, groups: Collection[str]) -> list[NamedImage] | None:
    """Those that ``roles.train`` names, or None where it names none."""
    if roles.train.strip() == NONE:
        return []
    conditions = read_conditions("DATASETS.TRAIN", roles.train, groups)
    return _matched("TRAIN", conditions, images, roles.seed) if conditions else None


def _open(
    images: Images, roles: Roles, conditions: Mapping[str, Sequence[Condition]]
) -> tuple[Images, Images | None, Images, list[str]]:
    """People who train are not tested. Returns training, enrolled (None: to be drawn) and probe images, and notes."""
    groups = [image.groups for image in images]
    if roles.train.strip() == NONE:
        train: Images = []
    else:
        given = conditions["TRAIN"] or read_conditions("DATASETS.TRAIN", HALF, ("person",))
        trains = matcher("DATASETS.TRAIN", given, groups, roles.seed)
        train = [image for image in images if trains(image.groups)]
    people = {image.person for image in train}
    unseen = [image for image in images if image.person not in people]
    if not unseen:
        raise ReIDError(
            f"DATASETS.PROTOCOL {roles.protocol}: DATASETS.TRAIN {roles.train!r} takes images of all "
            f"{number_of(len(people), 'person', 'people')}, so no person is left for the test. Name people, for "
            f"example TRAIN: {HALF}; where the same people train and are tested, set DATASETS.PROTOCOL to closed."
        )
    matched = {key: _matched(key, conditions[key], images, roles.seed) for key in ("ENROL", "PROBE")}
    for key, part in matched.items():
        names_people = {condition.group for condition in conditions[key]} & {"person", "identity"}
        both = {image.person for image in part} & people
        if names_people and both:
            raise ReIDError(
                f"DATASETS.PROTOCOL {roles.protocol}: {len(both)} of {len(people)} training people are in "
                f"DATASETS.{key} too: {some(sorted(both))}. Change DATASETS.TRAIN or DATASETS.{key}, or set "
                "DATASETS.PROTOCOL to closed."
            )
    notes = []
    unused = sum(image.person in people for image in images) - len(train)
    if unused:
        notes.append(f"{unused} images of training people neither train nor test (DATASETS.TRAIN {roles.train})")
    enrolled, probes = ([image for image in matched[key] if image.person not in people] for key in ("ENROL", "PROBE"))
    if roles.protocol in ("all_pairs", "fvc"):
        if conditions["ENROL"]:
            raise ReIDError(
                f"DATASETS.ENROL with DATASETS.PROTOCOL {roles.protocol}, which compares the images of DATASETS.PROBE "
                "with each other. Leave DATASETS.ENROL empty."
            )
        ordered = sorted(probes, key=_sample_order) if roles.protocol == "fvc" else probes
        return train, ordered, ordered, notes
    if not conditions["ENROL"] and not conditions["PROBE"]:
        return train, None, unseen, notes
    if not conditions["ENROL"]:
        enrolled = _without(unseen, probes)
    if not conditions["PROBE"]:
        probes = _without(unseen, enrolled)
    return train, enrolled, probes, notes


def _closed(
    images: Images, roles: Roles, conditions: Mapping[str, Sequence[Condition]]
) -> tuple[Images, Images, Images, list[str]]:
    """The test people are the training people; an enrolled image may train too, a probe may not."""
    if not any(conditions.values()):
        raise ReIDError(
            "DATASETS.PROTOCOL closed needs DATASETS.ENROL or DATASETS.PROBE: say which images are enrolled, "
            "for example ENROL: {session: 1} and PROBE: {session: 2}."
        )
    part = {key: _matched(key, conditions[key], images, roles.seed) for key in conditions}
    train, enrolled, probes = part["TRAIN"], part["ENROL"], part["PROBE"]
    if not conditions["TRAIN"] and not conditions["ENROL"]:
        train = enrolled = _without(images, probes)
    elif not conditions["TRAIN"]:
        train = enrolled
    elif not conditions["ENROL"]:
        enrolled = train
    if not conditions["PROBE"]:
        probes = _without(images, [*train, *enrolled])
    if roles.train.strip() == NONE:
        train = []
    training = {image.row.path for image in train}
    both = [image.row.path for image in probes if image.row.path in training]
    if both:
        raise ReIDError(
            f"DATASETS.PROTOCOL closed: {len(both)} of {len(probes)} query images are training images, which measures "
            f"memory: {some(both)}. Let DATASETS.TRAIN and DATASETS.PROBE name different images."
        )
    return train, enrolled, probes, []


def _matched(key: str, conditions: Sequence[Condition], images: Images, seed: int) -> list[NamedImage]:
    fits: Callable[[Mapping[str, str]], bool]
    fits = matcher(f"DATASETS.{key}", conditions, [image.groups for image in images], seed)
    return [image for image in images if fits(image.groups)]


def _without(images: Images, others: Images) -> list[NamedImage]:
    paths = {image.row.path for image in others}
    return [image for image in images if image.row.path not in paths]


def _sample_order(image: NamedImage) -> tuple[str, int, str, str]:
    """Identity by identity, the first sample first."""
    sample = image.groups.get("sample", image.groups.get("number", ""))
    number = int(sample) if sample.isdecimal() and len(sample) < 19 else 0
    return image.row.identity, number, sample, image.row.path


def _training_rows(train: Images, roles: Roles) -> list[SplitRow]:
    rows = [image.row._replace(split="train") for image in train]
    if not roles.hold_out:
        return rows
    several = {identity: paths for identity, paths in _paths_by_identity(train).items() if len(paths) > 1}
    held = {row.path for row in take_one_each(several, "val", "train", roles.seed, "val") if row.split == "val"}
    return [row._replace(split="val") if row.path in held else row for row in rows]


def _paths_by_identity(images: Images) -> dict[str, list[str]]:
    paths: dict[str, list[str]] = {}
    for image in images:
        paths.setdefault(image.row.identity, []).append(image.row.path)
    return paths


def _with_labels(rows: Sequence[SplitRow], images: Images) -> list[SplitRow]:
    """``rows``, which know path, identity and split alone, with what ``images`` know besides."""
    known = {image.row.path: image.row for image in images}
    return [known[row.path]._replace(split=row.split) for row in rows]


def _remaining(images: Images, conditions: Mapping[str, Sequence[Condition]]) -> str:
    """Counts of the values of those groups that conditions name, for a message."""
    named = dict.fromkeys(condition.group for part in conditions.values() for condition in part)
    counted = []
    for group in named:
        values = Counter(image.groups.get(group, "none") for image in images)
        counted.append(f"{group}: {some([f'{value} ({count})' for value, count in sorted(values.items())])}")
    return f"There are {len(images)} images; {'; '.join(counted)}." if counted else f"There are {len(images)} images."

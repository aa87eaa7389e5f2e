"""Any data set whose file names say what is on the pictures: one regular expression, and a protocol in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.bases import require_folder, some
from datasets.parsing.attributes import named_attributes
from datasets.parsing.conditions import matcher, read_conditions
from datasets.parsing.expressions import Rule
from datasets.parsing.folders import images_below, note_others
from datasets.parsing.pairs import pair_rows, read_pairs, refuse_roles
from datasets.parsing.protocols import NamedImage, Roles, assign, training_images
from datasets.parsing.splits import SplitDataset, SplitRow, require_run
from utils.errors import ReIDError
from utils.files.text_files import nfc
from utils.words import number_of

IDENTITY_PARTS = ("person", "side", "finger")
"""Groups that make an identity where neither a group ``identity`` nor ``DATASETS.IDENTITY`` does."""
COUNTED = ("side", "finger", "view", "session", "camera")
"""Groups whose values are counted in a note."""
SHOWN = 5


class PatternDataset(SplitDataset):
    """A folder of any depth whose paths match one regular expression::

        NAMES: pattern
        ROOT_DIR: data/iitd
        PATTERN: '(?P<side>Left|Right)/(?P<person>\\d{3})_(?P<sample>\\d+)\\.bmp'
        TRAIN: {person: 50%}
        ENROL: {sample: 1-3}
        PROBE: {sample: 4-9}

    The expression must match the whole path below ``root``, with forward slashes. Its named groups say what is on a
    picture: ``person``, ``side`` and ``finger`` make the identity unless ``identity`` or a rule does, ``view`` is the
    view, ``camera`` or else ``session`` the camera, and all groups may stand in conditions. Groups of other names
    (``gender``, ``day``) become attributes. Images that do not match are left out and counted.

    Args:
        root: the folder.
        pattern: the expression; ``(?i)`` in front ignores case.
        identity: rule that makes the identity of the groups (:class:`datasets.parsing.expressions.Rule`).
        camera: group or rule that makes the camera.
        keep: conditions on the images that are used at all (:mod:`datasets.parsing.conditions`).
        roles: who trains, is enrolled and probes (:mod:`datasets.parsing.protocols`); of protocol ``pairs`` the
            training images alone.
        pairs: file of the pairs to compare, for protocol ``pairs``.
        require_train: False where only a test is wanted.
        camera_rule: ``"none"``, or ``"market"`` if queries are not to be compared with their own camera or session.

    Raises:
        ReIDError: the expression does not compile or matches nothing, a rule or condition names a group that is not
            there, a role is empty, or people or images are on two sides.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        pattern: str,
        identity: str = "",
        camera: str = "",
        keep: str = "",
        roles: Roles = Roles(),  # noqa: B008 -- immutable
        pairs: str = "",
        require_train: bool = True,
        camera_rule: str = "none",
    ) -> None:
        root = require_folder(Path(root), "Set DATASETS.ROOT_DIR to the folder that DATASETS.PATTERN starts from.")
        require_run(roles.run)
        expression = _compile(pattern)
        images, notes = _read(root, expression)
        naming = _Naming(expression, identity, camera)
        named = [naming.name(path, groups) for path, groups in images]
        groups = {*expression.groupindex, "identity", "person"}
        if conditions := read_conditions("DATASETS.KEEP", keep, groups):
            fits = matcher("DATASETS.KEEP", conditions, [image.groups for image in named], roles.seed)
            found, named = len(named), [image for image in named if fits(image.groups)]
            notes.append(f"DATASETS.KEEP {keep} keeps {len(named)} of {found} images")
        notes.append(_counts(named))
        compared = []
        if roles.protocol == "pairs":
            refuse_roles(roles)
            compared = read_pairs(root / pairs, root)
            rows, more = pair_rows(compared, named, training_images(named, roles, groups))
            splits: dict[int | None, list[SplitRow]] = {None: rows}
        else:
            splits, more = assign(named, roles, groups, require_train)
        drawn = {run: rows for run, rows in splits.items() if run is not None}
        super().__init__(
            next(iter(splits.values())),
            root,
            name=f"pattern {root.name}",
            camera_rule=camera_rule,
            require_train=require_train,
            notes=[*notes, *more],
            runs=drawn or None,
            protocol=roles.protocol,
            pairs=compared,
        )


def _compile(pattern: str) -> re.Pattern[str]:
    if not pattern:
        raise ReIDError(
            "DATASETS.PATTERN is empty: give a regular expression with named groups over the paths below "
            "DATASETS.ROOT_DIR. python -m datasets.inspect --root DIR proposes one; configs/hand/sets has examples."
        )
    try:
        expression = re.compile(nfc(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        raise ReIDError(f"DATASETS.PATTERN = {pattern!r} is not a valid regular expression: {error}.") from None
    if not expression.groupindex:
        raise ReIDError(
            f"DATASETS.PATTERN = {pattern!r} has no named group: write (?P<person>...) around the part of the name "
            "that says whose hand it is."
        )
    return expression


def _read(root: Path, expression: re.Pattern[str]) -> tuple[list[tuple[str, dict[str, str]]], list[str]]:
    """Paths below ``root`` that match, with the text of their groups, and notes on the others."""
    paths, others = images_below(root)
    notes = note_others(others, str(root))
    if not paths:
        raise ReIDError(f"{root}: no images found at any depth. {'; '.join(notes)}".strip())
    matched, unmatched = [], []
    for path in paths:
        match = expression.fullmatch(nfc(path))
        if match:
            groups = {name: value for name, value in match.groupdict().items() if value is not None}
            matched.append((path, groups))
        else:
            unmatched.append(path)
    if not matched:
        raise ReIDError(
            f"{root}: none of its {len(paths)} images matches DATASETS.PATTERN = {expression.pattern!r}; there are "
            f"{some([paths[i * (len(paths) - 1) // 2] for i in range(min(3, len(paths)))], 3)}. "
            f"{_other_root(root, paths, expression)}"
        )
    if unmatched:
        notes.append(
            f"{len(unmatched)} of {len(paths)} images do not match DATASETS.PATTERN and were left out: "
            f"{some(unmatched, SHOWN)}"
        )
    return matched, notes


def _other_root(root: Path, paths: Sequence[str], expression: re.Pattern[str]) -> str:
    """Advice: another folder below which the paths do match, if there is one."""
    for path in paths[:: max(1, len(paths) // 100)]:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if expression.fullmatch("/".join(parts[depth:])):
                return f"With DATASETS.ROOT_DIR {root / '/'.join(parts[:depth])} it matches."
    return "The expression must match the whole path below DATASETS.ROOT_DIR."


class _Naming:
    """From the groups of a name to identity, person, camera, view and attributes."""

    def __init__(self, expression: re.Pattern[str], identity: str, camera: str) -> None:
        groups = set(expression.groupindex)
        self.parts = ["identity"] if "identity" in groups else [part for part in IDENTITY_PARTS if part in groups]
        self.identity = Rule("DATASETS.IDENTITY", identity, groups) if identity else None
        if not self.parts and self.identity is None:
            raise ReIDError(
                f"DATASETS.PATTERN has the groups {', '.join(sorted(groups))}, of which none says whose hand it is: "
                f"name one of identity, {', '.join(IDENTITY_PARTS)}, or set DATASETS.IDENTITY."
            )
        fallback = next((group for group in ("camera", "session") if group in groups), "")
        self.camera = Rule("DATASETS.CAMERA", camera or fallback, groups) if camera or fallback else None

    def name(self, path: str, groups: Mapping[str, str]) -> NamedImage:
        """One image; ``groups`` are those that its name has."""
        if self.identity:
            identity = self.identity.value(groups, path)
        else:
            identity = "_".join(groups[part] for part in self.parts if part in groups)
        if not identity:
            raise ReIDError(f"{path}: DATASETS.PATTERN matches it, but no group of it says whose hand it is.")
        camera = self.camera.value(groups, path) if self.camera else ""
        person = {"person": groups["person"]} if "person" in groups else {}
        known = {"identity": identity, "person": identity, **groups} | {"identity": identity}
        attributes = tuple(named_attributes({**groups, **person}).items())
        return NamedImage(SplitRow(path, identity, "", camera, groups.get("view", ""), attributes), known)


def _counts(images: Sequence[NamedImage]) -> str:
    """How many images, identities and people there are, and of which sides, fingers and sessions."""
    identities = len({image.row.identity for image in images})
    people = {image.groups["person"] for image in images}
    stated = any("person" in dict(image.row.attributes) for image in images[:1])
    counts = [
        f"{number_of(len(images), 'image')} of {number_of(identities, 'identity', 'identities')}"
        + (f" and {number_of(len(people), 'person', 'people')}" if stated else ", whose person the names do not say")
    ]
    for group in COUNTED:
        values = Counter(image.groups[group] for image in images if group in image.groups)
        if values:
            counts.append(f"{group} {some([f'{value} ({count})' for value, count in sorted(values.items())], 8)}")
    return f"DATASETS.PATTERN: {'; '.join(counts)}"

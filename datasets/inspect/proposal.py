"""A configuration for an unknown folder: a published set's recipe, or a pattern read off the names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

import configs
from configs import load_config, read_tree
from datasets import make_dataset
from datasets.bases import ReIDDataset, some
from datasets.inspect.naming import Proposal, folder_kind, propose
from datasets.parsing.expressions import Rule
from datasets.parsing.folders import images_below, note_lost, note_others
from utils.errors import ReIDError
from utils.files.checkpoint import write_text

RECIPES = Path(configs.__file__).parent / "hand" / "sets"
BASE = Path(configs.__file__).parent / "hand" / "vit_clipreid.yml"
MATCHED = 0.9
"""Share of the images that must have a published set's names."""
SAMPLE = 1000
"""Images that are tried on each published set's names."""
FEWEST = 4
"""People of whom two can train and two be tested."""


class Proposed(NamedTuple):
    """A proposed configuration.

    Attributes:
        cfg, dataset: as training would have them.
        base: YAML file that it builds on.
        keys: what it sets besides, by dotted key, as text.
        facts, doubts: what to say about it.
    """

    cfg: CfgNode
    dataset: ReIDDataset
    base: Path
    keys: Mapping[str, str]
    facts: Sequence[str]
    doubts: Sequence[str]


def propose_dataset(
    root: Path, opts: Sequence[str] = (), seed: int = 0, separator: str = "", hold_out: bool = False
) -> Proposed:
    """The likeliest configuration for the images below ``root``.

    Half of the people train and the others are tested: the first session is the gallery and the others are queries, or
    without sessions one random image of each identity is the gallery. The choice depends on seed and names alone.

    Args:
        root: the folder.
        opts: keys and values of the command line, on top.
        seed: another one gives other people and images.
        separator: where given, folders are identities and a person is what stands before it: ``007`` of ``007_left``.
        hold_out: keep one image of each training identity for validation.

    Raises:
        ReIDError: no images, no pattern in their names, or fewer than four people.
    """
    paths, others = images_below(root)
    if not paths:
        left_out = "; ".join(note_others(others, str(root))) or "no other files either"
        raise ReIDError(f"{root}: no images found at any depth ({left_out}). Expected <identity>/*.jpg.")
    lost = _lost(paths, others, str(root))
    chosen = {"DATASETS.SPLIT_SEED": str(seed)} | ({"DATASETS.HOLD_OUT": "True"} if hold_out else {})
    chosen |= dict(zip(opts[::2], opts[1::2], strict=len(opts) % 2 == 0))
    recipe = None if separator else _recipe(root, paths)
    if recipe is not None:
        file, folder = recipe
        facts = [f"the names are those of configs/hand/sets/{file.name}, whose protocol is taken", *lost]
        with suppress(ReIDError):  # names like those of a published set, but other people: a pattern is proposed
            return _load(file, {"DATASETS.ROOT_DIR": str(folder), **chosen}, facts, [])
    found = _by_separator(separator) if separator else propose(paths)
    if found is None:
        raise ReIDError(_no_pattern(root, paths))
    _require_people(found, paths)
    proposed = _open_protocol(root, found, chosen, seed)
    return proposed._replace(facts=[*proposed.facts, *lost])


def _lost(paths: Sequence[str], others: Sequence[str], where: str) -> list[str]:
    """A warning on folders all of whose files are left out: people may be lost with them."""
    kept = {parent for path in paths for parent in _above(path)}
    files: dict[str, list[str]] = {}
    for path in others:
        if "/" in path and path.rpartition("/")[0] not in kept:
            files.setdefault(path.rpartition("/")[0], []).append(path)
    return note_lost(files, where)


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _open_protocol(root: Path, found: Proposal, chosen: Mapping[str, str], seed: int) -> Proposed:
    """Half of the people by the pattern that was found; across sessions, where people came twice."""
    keys = {"NAMES": "pattern", "ROOT_DIR": str(root), "PATTERN": found.pattern, "IDENTITY": found.identity}
    keys |= {"PROTOCOL": "open", "TRAIN": "{person: 50%}"}
    facts = [f"proposed DATASETS.{key}: {keys[key]}" for key in ("PATTERN", "IDENTITY") if keys[key]]
    mirrored = {"INPUT.PROB": "0.0"} if found.sides else {}
    dotted = {f"DATASETS.{key}": value for key, value in keys.items() if value} | mirrored
    split = f"no split yet; proposed (seed {seed}): half of the people train"
    first, *later = found.sessions or [""]
    if later:
        roles = {"ENROL": f"{{session: {first}}}", "PROBE": f"{{session: [{', '.join(later)}]}}"}
        with suppress(ReIDError):  # no person is in two sessions: they cannot be compared
            notes = [f"{split}, session {first} is the gallery", *facts]
            return _load(BASE, dotted | {f"DATASETS.{k}": v for k, v in roles.items()} | chosen, notes, found.doubts)
    return _load(BASE, dotted | chosen, [f"{split}, one gallery image each", *facts], found.doubts)


def _load(base: Path, keys: Mapping[str, str], facts: Sequence[str], doubts: Sequence[str]) -> Proposed:
    """The configuration and its data set; the batch is as small as the number of training identities allows."""
    cfg, _ = load_config(base, [word for pair in keys.items() for word in pair])
    dataset = make_dataset(cfg, require_train=False)
    instances, identities = cfg.DATALOADER.NUM_INSTANCE, dataset.num_train_pids
    batch = "SOLVER.STAGE2.IMS_PER_BATCH"
    if 2 <= identities < cfg.SOLVER.STAGE2.IMS_PER_BATCH // instances and batch not in keys:
        keys = {**keys, batch: str(identities * instances)}
        cfg, _ = load_config(base, [word for pair in keys.items() for word in pair])
    return Proposed(cfg, dataset, base, keys, facts, doubts)


def write_config(proposed: Proposed, file: Path) -> None:
    """Write ``proposed`` as a YAML file that trains.

    Raises:
        ReIDError: there is such a file: it may have been edited since.
    """
    if file.exists():
        raise ReIDError(f"--write-config {file}: the file exists and is not overwritten. Name another one.")
    counts = [note for note in proposed.dataset.notes if note.startswith("DATASETS.PATTERN: ")]
    data = {k.removeprefix("DATASETS."): v for k, v in proposed.keys.items() if k.startswith("DATASETS.")}
    lines = [
        "# Proposed by python -m datasets.inspect. Are the counts of people, identities and sessions right?",
        *(f"# {note}" for note in (*counts, *proposed.doubts)),
        f"_BASE_: {_quoted(os.path.relpath(proposed.base, file.parent))}",
        "DATASETS:",
        *(f"  {key}: {value if value.startswith('{') else _quoted(value)}" for key, value in data.items()),
        *(f"{key}: {_quoted(value)}" for key, value in proposed.keys.items() if not key.startswith("DATASETS.")),
        f"OUTPUT_DIR: {_quoted('output/hand/' + Path(data['ROOT_DIR']).name)}",
    ]
    write_text(file, "\n".join([*lines, ""]))


def _recipe(root: Path, paths: Sequence[str]) -> tuple[Path, Path] | None:
    """The recipe of configs/hand/sets whose names these are, and the folder that its pattern starts from."""
    tried = paths[:: max(1, len(paths) // SAMPLE)]
    for depth in range(max(path.count("/") for path in tried) + 1):
        for file in sorted(RECIPES.glob("*.yml")):
            expression = re.compile(read_tree(file)["DATASETS"]["PATTERN"])
            inner = {"/".join(path.split("/")[:depth]) for path in tried if _matches(expression, path, depth)}
            if len(inner) != 1:
                continue
            folder = inner.pop()
            below = [path for path in tried if path.startswith(f"{folder}/" if folder else "")]
            if sum(_matches(expression, path, depth) for path in below) >= MATCHED * len(below):
                return file, root / folder
    return None


def _matches(expression: re.Pattern[str], path: str, depth: int) -> bool:
    return expression.fullmatch("/".join(path.split("/")[depth:])) is not None


def _by_separator(separator: str) -> Proposal:
    mark = re.escape(separator)
    return Proposal(rf"(?P<identity>(?P<person>[^/]+?)(?:{mark}[^/]*)?)/[^/]+", "", [], False, [])


def _require_people(found: Proposal, paths: Iterable[str]) -> None:
    expression = re.compile(found.pattern)
    rule = Rule("DATASETS.IDENTITY", found.identity or "person", expression.groupindex)
    people = {rule.value(match.groupdict(), path) for path in paths if (match := expression.fullmatch(path))}
    if len(people) < FEWEST:
        raise ReIDError(
            f"{len(people)} people ({some(sorted(people))}) cannot be split: two must train and two test. The pattern "
            f"read off the names is {found.pattern}; if it is wrong, set DATASETS.NAMES pattern and DATASETS.PATTERN."
        )


def _no_pattern(root: Path, paths: Sequence[str]) -> str:
    """The message's words for folders that are not people."""
    folders = sorted({path.split("/")[0] for path in paths if "/" in path})
    kind = folder_kind(folders) if folders else ""
    not_people = f"its folders {some(folders)} are {kind}s, not people. " if kind else ""
    shown = some([paths[i * (len(paths) - 1) // 2] for i in range(min(3, len(paths)))], 3)
    return (
        f"{root}: {not_people}The names of its {len(paths)} images do not say whose hands they show: {shown}. Sort "
        "them into folders <identity>/*.jpg, write a listing, or set DATASETS.NAMES pattern and DATASETS.PATTERN."
    )


def _quoted(text: str) -> str:
    """Text in YAML; numbers and True stand as they are."""
    if re.fullmatch(r"-?\d+(\.\d+)?|True|False|[A-Za-z_/]+", text) and text.lower() not in ("yes", "no", "on", "off"):
        return text
    return "'" + text.replace("'", "''") + "'"

"""Check a data set before training: counts, leaks between training and test, unreadable files, a contact sheet.

The exit status is 0; 1 if training or testing would be meaningless; 2 for a mistake in the command or configuration.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from configs import load_config
from datasets import make_dataset
from datasets.bases import WARNING, Record, ReIDDataset, UselessDataError, some
from datasets.inspect.changes import copies_to_drop, with_validation_people
from datasets.inspect.fingerprints import NEAR_IDENTICAL, Fingerprint, fingerprints, similar_pairs
from datasets.inspect.hands import report_lines, suspect_sheet, suspects
from datasets.inspect.merging import merged, named_sources
from datasets.inspect.mixtures import mixed_identities
from datasets.inspect.proposal import Proposed, propose_dataset, write_config
from datasets.parsing.keypoints import DEFAULT_FILE, keypoints_of
from datasets.parsing.splits import split_of, write_split
from datasets.reading.images import Facts, reading_of
from datasets.reading.levels import file_notes, level_notes, unknown_white
from datasets.reading.workers import num_workers
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.terminal import show, show_results
from utils.errors import ReIDError
from utils.files.checkpoint import write_atomically
from utils.plots.sheets import QUERY, RIGHT, Shown, contact_sheet
from utils.words import number_of

EXAMPLES = (
    "python -m datasets.inspect --root data/hands",
    "python -m datasets.inspect --root data/unsplit --write-config configs/hand/mine.yml --person-separator _",
    "python -m datasets.inspect --config_file configs/hand/hand_11k.yml DATASETS.ROOT_DIR data/11k_hands",
    "python -m datasets.inspect --merge a=data/hands b=configs/hand/hand_11k.yml --write-listing data/both.csv",
)
SHEET_ROWS, SHEET_COLUMNS = 12, 8
NAMED = 5
"""Pairs of near-identical pictures that are named."""

FEW_LEVELS = 32
"""Smallest number of grey levels of a usual photograph of 8 bits."""
DARKEST = 8
"""Smallest median brightness of a usual set of photographs."""

TRAIN_COLOUR, VAL_COLOUR = (43, 87, 154), (214, 122, 20)

Splits = dict[str, tuple[Sequence[Record], Sequence[str]]]
"""Records of each split and the names of their identities."""

Place = tuple[str, str, str]
"""Split, identity and path of an image."""


class Report:
    """Collects what there is to say: facts, warnings, and problems that make training or testing meaningless."""

    def __init__(self) -> None:
        self.problems = 0

    def fact(self, text: str) -> None:
        """Something to know."""
        show(text)

    def warn(self, text: str) -> None:
        """Something that may be wrong, or that weakens a result."""
        self.fact(f"warning: {text}")

    def problem(self, text: str) -> None:
        """Something that makes a result worthless."""
        self.problems += 1
        self.fact(f"PROBLEM: {text}")


def inspect(arguments: argparse.Namespace) -> int:
    """Print the report, write the chosen files, and return the exit status (0 or 1)."""
    cfg, dataset, proposed = _open(arguments)
    if arguments.val_people:
        dataset = with_validation_people(dataset, arguments.val_people, arguments.seed, arguments.person_separator)
    report = Report()
    report.fact(f"{dataset.name}: {dataset.root}")
    for note in dataset.notes:
        report.warn(note.removeprefix(WARNING)) if note.startswith(WARNING) else report.fact(f"note: {note}")
    for text in (*(proposed.doubts if proposed else ()), *mixed_identities(dataset, dataset.root)):
        report.warn(text)
    images = [r.path for r in (*dataset.train, *dataset.val, *dataset.query, *dataset.gallery)]
    # Near-duplicates are looked for in whole pictures.
    found, unreadable = fingerprints(images, num_workers(cfg), replace(dataset.reading, windows={}))
    if arguments.drop_duplicates:
        _drop_copies(report, dataset, found)
    splits: Splits = {
        "train": (dataset.train, dataset.train_identities),
        "val": (dataset.val, dataset.val_identities),
        "query": (dataset.query, dataset.test_identities),
        "gallery": (dataset.gallery, dataset.test_identities),
    }
    for line in _count_table(splits):
        report.fact(line)
    _check_learning(report, cfg, dataset)
    _check_test(report, dataset, arguments.person_separator)
    _check_files(report, found, unreadable)
    _check_levels(report, found, unreadable)
    _check_copies(report, dataset, splits, found)
    _check_leaks(report, splits, found)
    _check_hands(report, arguments, cfg, dataset)
    if cfg.TEST.PICTURES or arguments.sheet:
        _write_sheet(report, _sheet_file(arguments, cfg), dataset, splits, found)
    _write_files(report, arguments, dataset, proposed)
    verdict = number_of(report.problems, "problem") if report.problems else "no problem found"
    show_results(f"{verdict}\n")  # all files are written; a report that cannot be printed is an error
    return 1 if report.problems else 0


def _open(arguments: argparse.Namespace) -> tuple[CfgNode, ReIDDataset, Proposed | None]:
    """The configuration, the data set that it or ``--root`` names, and what is proposed for a tree without a split."""
    if arguments.merge:
        return *_merged(arguments), None
    if arguments.config_file:
        cfg, _ = load_config(arguments.config_file, arguments.opts)
        return cfg, make_dataset(cfg, require_train=False), None
    root = Path(arguments.root)
    if not root.is_dir():
        raise ReIDError(f"--root {root}: no such folder.")
    if arguments.identity_pattern:
        return *_by_names(root, arguments), None
    marks = {"listing.csv": "listing", "HandInfo.csv": "hand_11k", "train": "hand", "query": "hand", "test": "hand"}
    name = next((name for mark, name in marks.items() if (root / mark).exists()), None)
    if name:
        if arguments.hold_out or arguments.seed:
            raise ReIDError(f"{root}: has a split already; --seed and --hold-out are for folders without one.")
        cfg, _ = load_config(None, ["DATASETS.NAMES", name, "DATASETS.ROOT_DIR", str(root), *arguments.opts])
        return cfg, make_dataset(cfg, require_train=False), None
    options = (arguments.seed, arguments.person_separator, arguments.hold_out)
    proposed = propose_dataset(root, arguments.opts, *options)
    proposed.dataset.notes = [*proposed.facts, *proposed.dataset.notes]
    return proposed.cfg, proposed.dataset, proposed


def _merged(arguments: argparse.Namespace) -> tuple[CfgNode, ReIDDataset]:
    """The configuration and the data set of several sets together."""
    sets = {}
    for name, place in named_sources(arguments.merge).items():
        is_file = Path(place).suffix.lower() in (".yml", ".yaml")
        where = {"config_file": place, "root": None} if is_file else {"config_file": None, "root": place}
        try:
            _, sets[name], _ = _open(argparse.Namespace(**{**vars(arguments), **where, "merge": None}))
        except ReIDError as error:
            raise ReIDError(f"--merge {name}={place}: {error}") from None
    dataset = merged(sets)
    cfg, _ = load_config(None, [*arguments.opts, "DATASETS.NAMES", "listing", "DATASETS.ROOT_DIR", str(dataset.root)])
    dataset.reading = reading_of(cfg, dataset.boxes)
    return cfg, dataset


def _write_files(
    report: Report, arguments: argparse.Namespace, dataset: ReIDDataset, proposed: Proposed | None
) -> None:
    """The listing and the configuration that the command line names."""
    if arguments.write_listing:
        write_split(arguments.write_listing, split_of(dataset, dataset.root))
        protocol = f", DATASETS.PROTOCOL {dataset.protocol}" if dataset.protocol else ""
        protocol += f", DATASETS.CAMERA_RULE {dataset.camera_rule}" if dataset.camera_rule != "none" else ""
        report.fact(
            f"listing: {arguments.write_listing}; train on it with DATASETS.NAMES listing, DATASETS.LISTING "
            f"{arguments.write_listing}, DATASETS.ROOT_DIR {dataset.root}{protocol}"
        )
    if arguments.write_config:
        if proposed is None:
            raise ReIDError("--write-config writes what is proposed for a folder without a split; this one has one.")
        if arguments.val_people or arguments.drop_duplicates:
            raise ReIDError("--val-people and --drop-duplicates change a listing: take --write-listing with them.")
        write_config(proposed, Path(arguments.write_config))
        report.fact(f"configuration: {arguments.write_config}; train with --config_file {arguments.write_config}")


def _by_names(root: Path, arguments: argparse.Namespace) -> tuple[CfgNode, ReIDDataset]:
    """A proposed split of files whose names say whose hands they show."""
    keys = {"NAMES": "pattern", "ROOT_DIR": str(root), "PATTERN": f"(?:.*/)?{arguments.identity_pattern}[^/]*"}
    keys |= {"PROTOCOL": "open", "TRAIN": "{person: 50%}", "SPLIT_SEED": str(arguments.seed)}
    keys |= {"HOLD_OUT": "True"} if arguments.hold_out else {}
    words = [word for key, value in keys.items() for word in (f"DATASETS.{key}", value)]
    cfg, _ = load_config(None, [*words, *arguments.opts])
    return cfg, make_dataset(cfg, require_train=False)


def _drop_copies(report: Report, dataset: ReIDDataset, found: Mapping[str, Fingerprint]) -> None:
    """Leave copies out of the data set, each named with the file that stays."""
    dropped = copies_to_drop(dataset, found)
    report.fact(f"{number_of(len(dropped), 'copy is', 'copies are')} left out")
    for path, stays in dropped.items():
        report.fact(f"left out: {_short(path, dataset.root)}, which equals {_short(stays, dataset.root)}")
    if dropped:
        dataset.leave_out(dropped)


def _count_table(splits: Splits) -> list[str]:
    lines = [f"{'':<8}{'identities':>11}{'images':>9}   images per identity: min / median / max"]
    for split, (records, _) in splits.items():
        if records:
            counts = np.array(list(Counter(record.pid for record in records).values()))
            spread = f"{counts.min()} / {np.median(counts):g} / {counts.max()}"
            lines.append(f"{split:<8}{len(counts):>11}{len(records):>9}   {spread}")
    return lines


def _check_learning(report: Report, cfg: CfgNode, dataset: ReIDDataset) -> None:
    try:
        dataset.check_train()
    except UselessDataError as error:
        report.problem(str(error))
        return
    pairs = cfg.DATALOADER.SAMPLER == "pairs"
    instances, batch = 2 if pairs else cfg.DATALOADER.NUM_INSTANCE, cfg.SOLVER.STAGE2.IMS_PER_BATCH
    counts = Counter(record.pid for record in dataset.train)
    few = [dataset.train_identities[pid] for pid in sorted(counts) if counts[pid] < instances]
    if few:
        fate = "the sampler leaves them out" if pairs else "the sampler repeats their images within a batch"
        report.warn(
            f"{len(few)} of {len(counts)} training identities have fewer than {instances} images "
            f"({'a pair' if pairs else 'DATALOADER.NUM_INSTANCE'}): {fate}: {some(few)}"
        )
    if max(counts.values()) == 1:
        report.problem("every training identity has one image: there is no pair of the same person to train on")
    if cfg.DATALOADER.SAMPLER != "softmax" and len(counts) < batch // instances:
        report.problem(
            f"a batch of {batch} needs {batch // instances} identities, the train set has {len(counts)}: set "
            f"SOLVER.STAGE2.IMS_PER_BATCH to {len(counts) * instances}"
        )


def _check_test(report: Report, dataset: ReIDDataset, separator: str) -> None:
    """Checks besides the data set's notes (queries without a match, identities in training and test)."""
    for text in dataset.trivial():
        report.problem(text)
    if not separator:
        return
    train, test = (
        {identity.split(separator)[0] for identity in identities}
        for identities in (dataset.train_identities, dataset.test_identities)
    )
    if train & test:
        report.warn(f"{len(train & test)} people have identities in train and in test: {some(sorted(train & test))}")


def _check_files(report: Report, found: Mapping[str, Fingerprint], unreadable: Mapping[str, Facts]) -> None:
    sizes = Counter((print_.width, print_.height) for print_ in found.values())
    shown = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes.most_common(5))
    rest = f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
    report.fact(f"sizes: {shown or 'none'}{rest}")
    broken = [f"{path} ({facts.unreadable})" for path, facts in unreadable.items() if not facts.unknown_white]
    if broken:
        files = number_of(len(broken), "file")
        report.problem(f"{files} cannot be read (DATASETS.BAD_IMAGES skip leaves them out): {some(broken)}")
    for note in file_notes({path: print_.facts for path, print_ in found.items()}):
        report.warn(note)


def _check_levels(report: Report, found: Mapping[str, Fingerprint], unreadable: Mapping[str, Facts]) -> None:
    """Depth and brightness: whether they can be right, and whether the files agree."""
    unknown = unknown_white(unreadable)
    if unknown:
        report.problem(unknown)
    if not found:
        return
    depths = Counter(print_.facts.bits for print_ in found.values())
    listed = ", ".join(f"{bits} bits ({count})" for bits, count in sorted(depths.items()))
    brightness = np.array([print_.brightness for print_ in found.values()])
    typical, levels = float(np.median(brightness)), float(np.median([print_.levels for print_ in found.values()]))
    report.fact(
        f"depth: {listed}; brightness from 0 to 255: {brightness.min():.0f} / {typical:.0f} / {brightness.max():.0f} "
        f"(min / median / max); grey levels in a picture: {levels:g} of 256 (median)"
    )
    for note in level_notes(print_.facts for print_ in found.values()):
        report.warn(note)
    if len(depths) > 1:
        report.warn(f"files of different depth ({listed}): is the white level the same in all of them?")
    if levels < FEW_LEVELS:
        report.warn(
            f"half of the pictures have {levels:g} grey levels or fewer: is INPUT.WHITE right, or are they pictures "
            "of one bit?"
        )
    if not DARKEST <= typical <= 255 - DARKEST:
        report.warn(f"the pictures are almost {'black' if typical < DARKEST else 'white'} (brightness {typical:.0f})")
    off = (brightness < typical / 4) | (255 - brightness < (255 - typical) / 4)
    if off.any():
        names = [f"{path} ({value:.0f})" for path, value, odd in zip(found, brightness, off, strict=True) if odd]
        report.warn(f"{number_of(len(names), 'picture')} much darker or brighter than the others: {some(names)}")


def _check_copies(report: Report, dataset: ReIDDataset, splits: Splits, found: Mapping[str, Fingerprint]) -> None:
    """Equal files under two identities, or as a query and in the gallery."""
    places: dict[bytes, list[Place]] = defaultdict(list)
    for split, (records, identities) in splits.items():
        for record in records:
            if record.path in found:
                places[found[record.path].digest].append((split, identities[record.pid], record.path))
    copies = [same for same in places.values() if len({path for _, _, path in same}) > 1]
    two = [same for same in copies if len({identity for _, identity, _ in same}) > 1]
    named_twice = [_pair(same, dataset.root, lambda place: place[1]) for same in two]
    if named_twice:
        report.warn(
            f"{number_of(len(named_twice), 'picture is', 'pictures are')} filed under two identities: "
            f"{some(named_twice)}"
        )
    tested = [[place for place in same if place[0] in ("query", "gallery")] for same in copies]
    found_by = [same for same in tested if len({split for split, *_ in same}) == 2 and len({p for *_, p in same}) > 1]
    finds_itself = [_pair(same, dataset.root, lambda place: place[0]) for same in found_by]
    if finds_itself:
        report.problem(
            f"{number_of(len(finds_itself), 'query is', 'queries are')} in the gallery too: {some(finds_itself)}"
        )
    within = sum(len(same) - len({split for split, *_ in same}) for same in copies)
    if within:
        report.warn(f"{number_of(within, 'copy', 'copies')} of another file of the same split")


def _pair(same: Sequence[Place], root: Path, kind: Callable[[Place], str]) -> str:
    """Two of the equal files that differ in their ``kind``: identity, or query and gallery."""
    for one, other in itertools.combinations(same, 2):
        if kind(one) != kind(other) and one[2] != other[2]:
            first, second = sorted((one, other), key=lambda place: place[0] != "query")
            return f"{_short(first[2], root)} = {_short(second[2], root)}"
    return " = ".join(_short(path, root) for path in list(dict.fromkeys(path for *_, path in same))[:2])


def _short(path: str, root: Path) -> str:
    return path.removeprefix(f"{root}/")


def _check_leaks(report: Report, splits: Splits, found: Mapping[str, Fingerprint]) -> None:
    """Training pictures among the test pictures: identical files are problems, near-duplicates are listed."""
    train, test = (
        list(dict.fromkeys(r.path for name in names for r in splits[name][0] if r.path in found))
        for names in (("train", "val"), ("query", "gallery"))
    )
    enrolled = set(train)  # gallery images of a closed protocol, which were reported above
    test = [path for path in test if path not in enrolled]
    if not train or not test:
        return
    of_digest: dict[bytes, str] = {found[path].digest: path for path in train}
    equal = [(of_digest[found[path].digest], path) for path in test if found[path].digest in of_digest]
    cells = [np.stack([found[path].cells for path in paths]) for paths in (train, test)]
    near, count = [], 0  # uniform pictures give many pairs: only some are kept
    for i, j, value in similar_pairs(*cells, NEAR_IDENTICAL):
        if found[train[i]].digest != found[test[j]].digest:
            count += 1
            near += [f"{train[i]} and {test[j]} ({value:.4f})"] if count <= NAMED else []
    if equal:
        report.problem(f"{len(equal)} test pictures are training pictures: {some([' = '.join(two) for two in equal])}")
    if near:
        listed = some(near, NAMED, count)
        report.warn(f"{count} pairs of a train and a test picture are near-identical (1: the same): {listed}")
    if not equal and not near:
        report.fact(f"no picture of train is near-identical to one of the test ({len(train)} x {len(test)} compared)")


def _check_hands(report: Report, arguments: argparse.Namespace, cfg: CfgNode, dataset: ReIDDataset) -> None:
    """Photographs and labels by the key points, where there is a file of them."""
    if not (cfg.DATASETS.KEYPOINTS or (Path(dataset.root) / DEFAULT_FILE).is_file()):
        report.fact("hands and their labels are not checked: python -m datasets.keypoints finds the key points")
        return
    known = keypoints_of(cfg, dataset)
    found = suspects(dataset, known)
    for line in report_lines(dataset, known, found):
        report.warn(line)
    if found and (cfg.TEST.PICTURES or arguments.sheet):
        path = _sheet_file(arguments, cfg)
        path = path.with_name(f"{path.stem}_suspects.png")
        sheet = suspect_sheet(dataset, found)
        write_atomically(path, lambda file: sheet.save(file, format="PNG"))
        report.fact(f"suspects: {path}")


def _sheet_file(arguments: argparse.Namespace, cfg: CfgNode) -> Path:
    folder = Path(cfg.OUTPUT_DIR) if arguments.config_file else Path("output/inspect")
    return Path(arguments.sheet) if arguments.sheet else folder / "contact_sheet.png"


def _write_sheet(
    report: Report, path: Path, dataset: ReIDDataset, splits: Splits, found: Mapping[str, Fingerprint]
) -> None:
    """A row for each of some identities, half of train and val and half of the test."""
    train = {split: splits[split] for split in ("train", "val") if splits[split][0]}
    train = _sheet_rows(train, found, {"train": TRAIN_COLOUR, "val": VAL_COLOUR})
    test = _sheet_rows({s: splits[s] for s in ("query", "gallery")}, found, {"query": QUERY, "gallery": RIGHT})
    rows = [*_spread(train, SHEET_ROWS // 2), *_spread(test, SHEET_ROWS // 2)]
    held_out = "val (orange), " if splits["val"][0] else ""
    count = f"{len(rows)} of {len(train) + len(test)} identities, one in each row"
    title = f"{dataset.name}: {count}; train (blue), {held_out}query (dark grey), gallery (green)"
    sheet = contact_sheet(rows, title, reading=dataset.reading)
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))
    report.fact(f"contact sheet: {path}")


def _sheet_rows(splits: Splits, found: Mapping[str, Fingerprint], colours: Mapping[str, tuple]) -> list[list[Shown]]:
    """The pictures of each identity, by identity: of every split some."""
    rows: dict[int, list[Shown]] = {}
    for split, (records, identities) in splits.items():
        shown: dict[int, list[Shown]] = defaultdict(list)
        for record in records:
            if record.path in found:
                caption = f"{identities[record.pid]}\n{split}, {found[record.path].width}x{found[record.path].height}"
                shown[record.pid].append(Shown(record.path, caption, colours[split]))
        for pid, pictures in shown.items():
            rows.setdefault(pid, []).extend(_spread(pictures, SHEET_COLUMNS // len(splits)))
    return [rows[pid] for pid in sorted(rows)]


def _spread(items: Sequence, count: int) -> list:
    """At most ``count`` of ``items``, evenly spaced from the first to the last."""
    places: Iterable[int] = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[i] for i in places]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m datasets.inspect", __doc__, EXAMPLES)
    parser.usage = "\n       ".join(
        f"{parser.prog} {source} [options]"
        for source in ("--root DIR", "--config_file FILE [KEY VALUE ...]", "--merge NAME=PLACE ...")
    )
    data, unsplit, written = map(parser.add_argument_group, ("data set", "an unsplit folder", "what is written"))
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument("--config_file", metavar="FILE", help="YAML file that names the data set")
    source.add_argument(
        "--merge",
        metavar="NAME=PLACE",
        nargs="+",
        help="several sets as one, each a folder as for --root or a YAML file; --write-listing keeps it",
    )
    source.add_argument(
        "--root", metavar="DIR", help="folder with train/ and test/, listing.csv or HandInfo.csv, or unsplit"
    )
    data.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration keys that override the file")
    written.add_argument("--write-listing", metavar="FILE", help="write the split, proposed or given, as a CSV listing")
    written.add_argument("--write-config", metavar="FILE", help="write what is proposed for an unsplit folder as YAML")
    written.add_argument("--sheet", metavar="FILE", help="contact sheet; default: contact_sheet.png in OUTPUT_DIR")
    unsplit.add_argument("--seed", type=int, default=0, help="seed of the proposed split")
    unsplit.add_argument(
        "--person-separator", metavar="TEXT", default="", help="007_left and 007_right are one person with '_'"
    )
    unsplit.add_argument(
        "--identity-pattern",
        metavar="REGEX",
        help="identities of an unsplit folder by the beginning of its file names: '(?P<identity>\\d+_[LR])'; a group "
        "person keeps a person's hands together",
    )
    written.add_argument(
        "--drop-duplicates", action="store_true", help="leave out all but one of identical files, and list them"
    )
    written.add_argument(
        "--val-people", metavar="SHARE", type=float, default=0.0, help="give this share of the training people to val"
    )
    unsplit.add_argument("--hold-out", action="store_true", help="propose validation images as well")
    arguments = parser.parse_args(argv)
    statuses: list[int] = []
    failure = run_script(lambda: statuses.append(_inspect_or_refuse(arguments)))
    return failure or statuses[0]


def _inspect_or_refuse(arguments: argparse.Namespace) -> int:
    try:
        return inspect(arguments)
    except UselessDataError as error:
        Report().problem(str(error))
        return 1

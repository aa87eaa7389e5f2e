"""Check a data set before training: counts, leaks between training and test, unreadable files, a contact sheet.

The exit status is 0; 1 if training or testing would be meaningless; 2 for a mistake in the command or configuration.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from yacs.config import CfgNode

from datasets.bases import WARNING, ReIDDataset, UselessDataError
from datasets.inspect.checks import check_files, check_learning, check_levels, check_test, count_table, splits_of
from datasets.inspect.copies import check_copies, check_leaks, drop_copies
from datasets.inspect.fingerprints import fingerprints
from datasets.inspect.hands import report_lines, suspect_sheet, suspects
from datasets.inspect.mixtures import mixed_identities
from datasets.inspect.proposal import Proposed, write_config
from datasets.inspect.report import Report
from datasets.inspect.sheet import identity_sheet
from datasets.inspect.sources import open_dataset
from datasets.inspect.validation import with_validation_people
from datasets.parsing.keypoints import DEFAULT_FILE, keypoints_of
from datasets.parsing.splits import split_of, write_split
from datasets.reading.workers import num_workers
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.terminal import show_results
from utils.errors import ReIDError
from utils.plots.sheets import save_sheet
from utils.words import number_of

EXAMPLES = (
    "python -m datasets.inspect --root data/hands",
    "python -m datasets.inspect --root data/unsplit --write-config configs/hand/mine.yml --person-separator _",
    "python -m datasets.inspect --config_file configs/hand/hand_11k.yml DATASETS.ROOT_DIR data/11k_hands",
    "python -m datasets.inspect --merge a=data/hands b=configs/hand/hand_11k.yml --write-listing data/both.csv",
)


def inspect(arguments: argparse.Namespace) -> int:
    """Print the report, write the chosen files, and return the exit status (0 or 1)."""
    cfg, dataset, proposed = open_dataset(arguments)
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
        drop_copies(report, dataset, found)
    splits = splits_of(dataset)
    for line in count_table(splits):
        report.fact(line)
    check_learning(report, cfg, dataset)
    check_test(report, dataset, arguments.person_separator)
    check_files(report, found, unreadable)
    check_levels(report, found, unreadable)
    check_copies(report, dataset, splits, found)
    check_leaks(report, splits, found)
    sheet_file = _sheet_file(arguments, cfg)
    _check_hands(report, cfg, dataset, sheet_file)
    if sheet_file:
        _save(report, "contact sheet", identity_sheet(dataset, splits, found), sheet_file)
    _write_files(report, arguments, dataset, proposed)
    verdict = number_of(report.problems, "problem") if report.problems else "no problem found"
    show_results(f"{verdict}\n")  # all files are written; a report that cannot be printed is an error
    return 1 if report.problems else 0


def _check_hands(report: Report, cfg: CfgNode, dataset: ReIDDataset, sheet_file: Path | None) -> None:
    """Photographs and labels by the key points, where there is a file of them; the suspects beside ``sheet_file``."""
    if not (cfg.DATASETS.KEYPOINTS or (Path(dataset.root) / DEFAULT_FILE).is_file()):
        report.fact("hands and their labels are not checked: python -m datasets.keypoints finds the key points")
        return
    known = keypoints_of(cfg, dataset)
    found = suspects(dataset, known)
    for line in report_lines(dataset, known, found):
        report.warn(line)
    if found and sheet_file:
        path = sheet_file.with_name(f"{sheet_file.stem}_suspects.png")
        _save(report, "suspects", suspect_sheet(dataset, found), path)


def _sheet_file(arguments: argparse.Namespace, cfg: CfgNode) -> Path | None:
    """Where the contact sheet goes; None where no pictures are wanted."""
    if arguments.sheet:
        return Path(arguments.sheet)
    folder = Path(cfg.OUTPUT_DIR) if arguments.config_file else Path("output/inspect")
    return folder / "contact_sheet.png" if cfg.TEST.PICTURES else None


def _save(report: Report, name: str, sheet: Image.Image, path: Path) -> None:
    save_sheet(sheet, path)
    report.fact(f"{name}: {path}")


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

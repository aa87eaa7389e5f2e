"""Checks of a data set that need no second picture: its counts, the sampler, people, files, depth and brightness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from yacs.config import CfgNode

from datasets.bases import Record, ReIDDataset, UselessDataError, some
from datasets.inspect.fingerprints import Fingerprint
from datasets.inspect.report import Report
from datasets.reading.images import Facts
from datasets.reading.levels import file_notes, level_notes, unknown_white
from utils.words import number_of

FEW_LEVELS = 32
"""Smallest number of grey levels of a usual photograph of 8 bits."""
DARKEST = 8
"""Smallest median brightness of a usual set of photographs."""

Splits = dict[str, tuple[Sequence[Record], Sequence[str]]]
"""Records of each split and the names of their identities."""


def splits_of(dataset: ReIDDataset) -> Splits:
    """The four splits by name."""
    return {
        "train": (dataset.train, dataset.train_identities),
        "val": (dataset.val, dataset.val_identities),
        "query": (dataset.query, dataset.test_identities),
        "gallery": (dataset.gallery, dataset.test_identities),
    }


def count_table(splits: Splits) -> list[str]:
    """Identities and images of each split that has any, a line each below the heads."""
    lines = [f"{'':<8}{'identities':>11}{'images':>9}   images per identity: min / median / max"]
    for split, (records, _) in splits.items():
        if records:
            counts = np.array(list(Counter(record.pid for record in records).values()))
            spread = f"{counts.min()} / {np.median(counts):g} / {counts.max()}"
            lines.append(f"{split:<8}{len(counts):>11}{len(records):>9}   {spread}")
    return lines


def check_learning(report: Report, cfg: CfgNode, dataset: ReIDDataset) -> None:
    """Whether the training set can fill the batches that ``cfg`` makes of it."""
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


def check_test(report: Report, dataset: ReIDDataset, separator: str) -> None:
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


def check_files(report: Report, found: Mapping[str, Fingerprint], unreadable: Mapping[str, Facts]) -> None:
    """Sizes of the pictures, and files that cannot be read."""
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


def check_levels(report: Report, found: Mapping[str, Fingerprint], unreadable: Mapping[str, Facts]) -> None:
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

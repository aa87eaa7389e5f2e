"""Whether the brightness of a set of image files can be right: what is white, and whether the files agree on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from datasets.bases import some
from datasets.reading.images import Facts
from utils.images import likely_white
from utils.words import number_of

DARK = 1 / 4
"""Share of white that the brightest value of a whole set reaches in any set that is stored as its format states."""


def unknown_white(facts: Mapping[str, Facts]) -> str:
    """What to set ``INPUT.WHITE`` to where files do not state what white is; empty where all do."""
    unknown = [path for path, found in facts.items() if found.unknown_white]
    if not unknown:
        return ""
    peak = max(facts[path].peak for path in unknown)
    return (
        f"{number_of(len(unknown), 'file does', 'files do')} not state what white is, first {unknown[0]} "
        f"({facts[unknown[0]].unreadable}). The brightest value of all is {peak:g}; if the camera's white level is "
        f"not known, set INPUT.WHITE {likely_white(peak)}."
    )


def level_notes(facts: Iterable[Facts]) -> list[str]:
    """What cannot be right about grey files of more than 8 bits: too dark as a set, or brighter than white."""
    peaks: dict[tuple[int, float], list[float]] = defaultdict(list)
    for found in facts:
        if found.peak is not None and not found.unreadable:
            peaks[found.bits, found.white].append(found.peak)
    notes = []
    for (bits, white), values in sorted(peaks.items()):
        brightest, files = max(values), number_of(len(values), "grey file")
        if 0 < brightest <= DARK * white:
            notes.append(
                f"the brightest value in {files} of {bits} bits is {brightest:g}, while {white:g} is white: they are "
                f"read almost black. If their camera has fewer bits, set INPUT.WHITE {likely_white(brightest)}"
            )
        over = sum(value > 1.1 * white for value in values)
        if over:
            notes.append(
                f"{over} of {files} of {bits} bits hold values above white ({white:g}), up to {brightest:g}: these are "
                "cut off. Is INPUT.WHITE right?"
            )
    return notes


def file_notes(facts: Mapping[str, Facts]) -> list[str]:
    """What else a reader does with files that hold more than one picture, or a damaged block of metadata."""
    pages = [path for path, found in facts.items() if found.pages]
    broken = [path for path, found in facts.items() if found.broken_exif]
    notes = []
    if pages:
        notes.append(f"{number_of(len(pages), 'file')} with several pages or frames; the first is read: {some(pages)}")
    if broken:
        notes.append(
            f"{number_of(len(broken), 'file')} with a damaged EXIF block, read as stored, perhaps not upright: "
            f"{some(broken)}"
        )
    return notes

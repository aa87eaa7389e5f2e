"""Conditions on groups: which values they mean, and what is refused."""

import pytest

from datasets.parsing.conditions import matcher, read_conditions
from tests.datasets.hand_trees import message

IMAGES = [
    {"person": f"{person:03d}", "session": session, "side": side}
    for person in range(1, 21)
    for session in "12"
    for side in "LR"
]


def people(text, seed=0):
    fits = matcher("DATASETS.TRAIN", read_conditions("DATASETS.TRAIN", text, IMAGES[0]), IMAGES, seed)
    return [image for image in IMAGES if fits(image)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 80),
        ("{session: 1}", 40),
        ("session: 01", 40),
        ("{person: 1-3}", 12),
        ("{person: 1-3, session: 2, side: L}", 3),
        ("{person: [1-3, 007, 20]}", 20),
        ("{person: '5, 6-7'}", 12),
        ("{side: [l, L, left]}", 40),
        ("{person: 50%}", 40),
        ("{person: 0.1%}", 4),
    ],
)
def test_counts(text, count):
    assert len(people(text)) == count


def test_shares_depend_on_the_seed_and_on_nothing_else():
    first = {image["person"] for image in people("{person: 25%}")}
    assert len(first) == 5 and first == {image["person"] for image in people("{person: 25%}")}
    assert first != {image["person"] for image in people("{person: 25%}", seed=1)}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{finger: 1}", "no group 'finger'; its groups are person, session, side"),
        ("{session: [}", "is not read"),
        ("session", "session has no value"),
        ("[session]", "is not read"),
        ("{session: }", "session has no value"),
        ("{session: []}", "session has no value"),
        ("{session: {a: 1}}", "session has no value"),
        ("{person: 9-3}", "ends before it begins; write 3-9"),
        ("{person: 100%}", "between 0% and 100%"),
        ("{person: 0%}", "between 0% and 100%"),
    ],
)
def test_what_is_refused(text, part):
    said = message(read_conditions, "DATASETS.PROBE", text, IMAGES[0])
    assert said.startswith("DATASETS.PROBE") and part in said


def test_a_value_that_no_image_has():
    said = message(people, "{session: 3-4}")
    assert said == ("DATASETS.TRAIN: session: 3-4: none of the 80 images has it; session is one of 1, 2.")

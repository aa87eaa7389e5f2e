"""How long a run will still take."""

import pytest

from utils.console.time_left import in_words, time_left

SETTINGS = {"SOLVER.STAGES": [1, 2], "SOLVER.STAGE1.MAX_EPOCHS": 10, "SOLVER.STAGE2.MAX_EPOCHS": 60}


def history(stage, seconds):
    return [{"stage": stage, "epoch": epoch, "seconds": s} for epoch, s in enumerate(seconds, 1)]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (history(1, [4.0]), "  left about 36 s, then 60 epochs of stage 2"),
        (history(1, [90.0] + [10.0] * 7), "  left about 20 s, then 60 epochs of stage 2"),
        (history(1, [1.0] * 10), "  left 60 epochs of stage 2"),
        (history(1, [1.0] * 10) + history(2, [100.0, 60.0, 60.0]), "  left about 57 min"),
        (history(2, [60.0] * 59), "  left about 1 min"),
        (history(2, [60.0] * 60), ""),
    ],
)
def test_what_is_left(entries, said):
    assert time_left(entries, SETTINGS) == said


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (7860, "2 h 11 min"), (190_000, "2 d 4 h")],
)
def test_words(seconds, words):
    assert in_words(seconds) == words

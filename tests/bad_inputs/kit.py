"""A corpus of bad files, made by the tests: each case has a file and the expected outcome of reading it.

No case may create the canary, a file that the code inside a hostile file writes when somebody runs it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from utils.errors import ReIDError

CANARY = "canary"


class Case(NamedTuple):
    """One bad file.

    Attributes:
        name: of the file; its ending is part of the case.
        make: from a path to the file there, or the bytes of it.
        expected: what the message of the :class:`ReIDError` must match; or a function that takes what was read and
            returns whether it is right.
    """

    name: str
    make: Callable[[Path], object] | bytes
    expected: str | Callable[[Any], object]


def cases(*table):
    """A test runs once for each of ``table``."""
    assert len({case.name for case in table}) == len(table), "two cases of one name"
    return pytest.mark.parametrize("case", table, ids=[case.name for case in table])


def judge(case, folder, read, named=True):
    """Write the file of ``case`` into ``folder``, read it with ``read`` and compare the outcome with the expected one.

    ``named``: the message must begin with, or hold, the file's name.
    """
    path = folder / case.name
    os.environ["REID_CANARY"] = str(folder / CANARY)
    if callable(case.make):
        case.make(path)
    else:
        path.write_bytes(case.make)
    if callable(case.expected):
        assert case.expected(read(path)), case.name
    else:
        with pytest.raises(ReIDError, match=case.expected) as caught:
            read(path)
        assert not named or case.name in str(caught.value), str(caught.value)
        assert "Traceback" not in str(caught.value)
    assert not (folder / CANARY).exists(), "code in the file was run"


class Hostile:
    """An object whose unpickling makes the canary."""

    def __init__(self, order=os.mkdir):
        self.order = order

    def __reduce__(self):
        return self.order, (os.environ["REID_CANARY"],)

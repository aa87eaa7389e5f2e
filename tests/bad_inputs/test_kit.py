"""A reader that runs the code of a hostile file is detected."""

import pickle

import pytest

from tests.bad_inputs.kit import Case, Hostile, judge


def test_a_reader_that_unpickles_is_caught(tmp_path):
    case = Case("x.pkl", lambda path: path.write_bytes(pickle.dumps(Hostile())), lambda found: True)
    with pytest.raises(AssertionError, match="was run"):
        judge(case, tmp_path, lambda path: pickle.loads(path.read_bytes()) or True)

"""The reader of the golden numbers can fail: unknown arrays, missing folders, slices, tolerances."""

import json

import numpy as np
import pytest
import torch

from tests.parity.methods.kit import NO_KIT, Golden, _sliced


@pytest.fixture
def golden(tmp_path, monkeypatch):
    """A kit of one array of each kind in a folder that PARITY_KIT names."""
    arrays = {
        "x": {"role": "input"},
        "y": {"role": "output", "atol": 0.01, "slice": "[::2]"},
        "count": {"role": "output", "exact": True},
        "norms": {"role": "gradient", "atol": 9, "rtol": 1e-3, "rtol_floor": 1e-3},
    }
    monkeypatch.setenv("PARITY_KIT", str(tmp_path))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "index.json").write_text(json.dumps({"meta": {}, "inputs": {}, "arrays": arrays}))
    stored = {"x": np.ones(2), "y": np.array([1.0, 3.0]), "count": np.array(3), "norms": np.array([1.0, 0.0])}
    np.savez(tmp_path / "m" / "cases.npz", **stored)
    return Golden("m")


def test_inputs_are_not_compared_and_an_array_without_a_pattern_fails_with_its_name(golden):
    assert golden.names == ["y", "count", "norms"]
    golden.array("y|count")(lambda: torch.tensor([1.0, 2.0, 3.0]))
    golden.check("y")
    with pytest.raises(AssertionError, match="norms"):
        golden.check("norms")


@pytest.mark.parametrize(("off", "passes"), [(0.009, True), (0.011, False), (float("nan"), False)])
def test_tolerance(golden, off, passes):
    golden.array("y")(lambda: torch.tensor([1.0, 7.0, 3.0 + off]))
    if passes:
        golden.check("y")
    else:
        with pytest.raises(AssertionError, match="y"):
            golden.check("y")


def test_relative_tolerance_takes_the_place_of_the_absolute_one(golden):
    golden.array("norms")(lambda: torch.tensor([1.0009, 0.0009]))
    golden.check("norms")
    golden.patterns["norms"] = lambda: torch.tensor([1.01, 0.0])
    with pytest.raises(AssertionError, match="norms"):
        golden.check("norms")


def test_integers_are_equal(golden):
    golden.array("count")(lambda: torch.tensor(2))
    with pytest.raises(AssertionError, match="count"):
        golden.check("count")


def test_a_missing_folder_is_a_failing_test(golden):
    missing = Golden("other")
    assert missing.names == [NO_KIT]
    with pytest.raises(AssertionError, match="other"):
        missing.test()(NO_KIT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[:, ::2]", [[0, 2], [4, 6]]),
        ("[..., 0]", [0, 4]),
        ("[:1]", [[0, 1, 2, 3]]),
        ("flat[::max(1, numel//4)][:3]", [0, 2, 4]),
    ],
)
def test_slices(text, expected):
    assert _sliced(torch.arange(8).reshape(2, 4), text).tolist() == expected

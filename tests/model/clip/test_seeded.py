"""Files of weights whose unchanged rows come from a seed."""

import json

import pytest
import torch
from safetensors.torch import save_file

from model.clip.seeded import SEEDED, start_values, with_start, without_start
from model.clip.weights import read_state_dict
from utils.errors import ReIDError

RECORD = {"seed": 5, "tensors": {"table": [[6, 3], 0.5], "kept": [[2, 2], 1.0]}}


def example():
    tensors = {name: start_values(name, tuple(shape), d, 5) for name, (shape, d) in RECORD["tensors"].items()}
    tensors["table"][[1, 4]] += 1
    return tensors | {"other": torch.arange(3.0)}


def test_numbers_are_the_same_on_every_machine():
    values = start_values("table", (2, 3), 0.5, 5)
    expected = [0.4802950918674469, -0.13751110434532166, -0.4950653910636902]
    assert values[0].tolist() == expected and values.dtype is torch.float32
    large = start_values("x", (400, 100), 0.5, 1)
    assert float(large.std()) == pytest.approx(0.5, rel=0.02) and float(large.abs().max()) <= 0.5 * 3**0.5
    assert not torch.equal(start_values("a", (2, 3), 0.5, 5), values)


def test_only_changed_rows_are_stored_and_all_come_back(tmp_path):
    whole = example()
    kept = without_start(whole, {"table": 0.5, "kept": 1.0}, 5)
    assert kept["table"].shape == (2, 3) and kept["table.rows"].tolist() == [1, 4]
    assert kept["kept"].shape == (0, 2)
    save_file(kept, tmp_path / "w.safetensors", {SEEDED: json.dumps(RECORD)})
    found = read_state_dict(tmp_path / "w.safetensors")
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("record", [{}, {"seed": 5, "tensors": {"unknown": [[6, 3], 0.5]}}, {"tensors": 3, "seed": 1}])
def test_a_record_that_does_not_fit(record):
    kept = without_start(example(), {"table": 0.5, "kept": 1.0}, 5)
    with pytest.raises(ReIDError, match="seeded"):
        with_start(kept, record)

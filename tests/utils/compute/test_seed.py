"""Same seed, same numbers; and torch's settings on a GPU."""

import os
import random

import numpy as np
import pytest
import torch

from configs import load_config
from processor import start_run
from processor.runs import start
from utils.compute.seed import RngState, reproducibility_note, seed_everything


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Other tests draw from the generators and choose their own algorithms."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    numbers = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.deterministic = before[1]
    random.setstate(numbers[0])
    np.random.set_state(numbers[1])
    torch.set_rng_state(numbers[2])
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def drawn():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_decides_all_generators():
    seed_everything(5)
    first = drawn()
    seed_everything(5)
    assert drawn() == first
    seed_everything(6)
    assert not set(drawn()) & set(first)


def test_the_state_brings_the_numbers_back():
    numbers = RngState(torch.device("cpu"))
    state = numbers.state_dict()
    first = torch.rand(5)
    numbers.load_state_dict(state)
    assert torch.equal(torch.rand(5), first)


@pytest.mark.parametrize("asked", [True, False])
def test_the_key_sets_torch(tmp_path, asked):
    """From the configuration to torch's switches; cuBLAS has its own, which it reads from the environment."""
    words = {"OUTPUT_DIR": tmp_path, "MODEL.DEVICE": "cpu", "SOLVER.DETERMINISTIC": asked}
    start_run(load_config(None, [str(word) for pair in words.items() for word in pair])[0])
    assert torch.are_deterministic_algorithms_enabled() is asked
    assert torch.is_deterministic_algorithms_warn_only_enabled() or not asked
    assert torch.backends.cudnn.deterministic is asked and torch.backends.cudnn.benchmark is False
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if asked else None)


def test_an_operation_without_a_deterministic_form_is_named_not_fatal():
    seed_everything(1, deterministic=True)
    with pytest.warns(UserWarning, match="does not have a deterministic implementation"):
        torch.ones(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("device", "deterministic", "expected"),
    [
        ("cpu", False, ""),
        ("cuda", False, "may differ in their last bits; SOLVER.DETERMINISTIC True"),
        ("cuda", True, "operations without such a form"),
        ("mps", False, "two runs on mps"),
    ],
)
def test_what_cannot_be_guaranteed_is_logged(device, deterministic, expected):
    note = reproducibility_note(torch.device(device), deterministic)
    assert expected in note and bool(note) == bool(expected)


def test_the_log_says_it(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "reproducibility_note", lambda device, asked: f"bits on {device}, {asked}")
    start_run(load_config(None, ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"])[0])
    assert "note: bits on cpu, False" in (tmp_path / "train_log.txt").read_text()

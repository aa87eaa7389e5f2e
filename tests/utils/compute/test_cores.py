import os

import pytest

from utils.compute import cores


@pytest.mark.parametrize(
    ("machine", "mask", "quota", "usable"),
    [
        (16, 16, None, 16),
        (16, 4, None, 4),
        (16, 16, "max 100000", 16),
        (16, 16, "250000 100000", 3),
        (16, 2, "400000 100000", 2),
        (16, 16, "50000 100000", 1),
        (16, 16, "?", 16),
        (None, 16, None, 1),
    ],
)
def test_usable_cores(tmp_path, monkeypatch, machine, mask, quota, usable):
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(mask)), raising=False)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores.usable_cores() == usable

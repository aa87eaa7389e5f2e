"""What a run says when it starts."""

import pytest
import torch

from configs import load_config
from configs.checks import schedule_notes
from processor.runs.start import start_run
from tests.toy_hands import write_config


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        ("SOLVER.STAGE2.MAX_EPOCHS 100", []),
        ("SOLVER.STAGE2.MAX_EPOCHS 5", ["STAGE2.WARMUP_ITERS = 10 is more", "STAGE2.STEPS 40, 70 come after"]),
        ("SOLVER.STAGE2.MAX_EPOCHS 40", ["STAGE2.STEPS 70 come after SOLVER.STAGE2.MAX_EPOCHS = 40"]),
        ("SOLVER.STAGE1.MAX_EPOCHS 3", ["STAGE1.WARMUP_EPOCHS = 5 is more than SOLVER.STAGE1.MAX_EPOCHS = 3"]),
        ("SOLVER.STAGE1.MAX_EPOCHS 3 SOLVER.STAGES [2]", []),
        ("SOLVER.STAGE2.MAX_EPOCHS 5 SOLVER.STAGE2.SCHEDULER polynomial SOLVER.STAGE2.WARMUP_EPOCHS 1", []),
    ],
)
def test_schedules_that_are_longer_than_the_training(overrides, notes):
    found = schedule_notes(load_config(None, overrides.split())[0])
    assert len(found) == len(notes) and all(note in text for note, text in zip(notes, found, strict=True))


def test_the_notes_are_in_the_log_of_a_training(tmp_path):
    cfg, _ = load_config(write_config(tmp_path, tmp_path / "run"), ["SOLVER.STAGE2.STEPS", "[1, 99]"])
    start_run(cfg)
    assert "note: SOLVER.STAGE2.STEPS 99 come after" in (tmp_path / "run/train_log.txt").read_text()
    start_run(cfg, test=True)
    assert (tmp_path / "run/train_log.txt").read_text().count("come after") == 1


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("stages", ["[2]", "[]"])
def test_a_run_that_trains_nothing_computes_as_its_test_features(tmp_path, test, stages):
    words = ["SOLVER.PRECISION", "fp32", "TEST.PRECISION", "bf16", "SOLVER.STAGES", stages, "MODEL.METHOD", "baseline"]
    words = words if stages == "[2]" else [*words[:-1], "zeroshot"]
    run = start_run(load_config(write_config(tmp_path, tmp_path / "run"), words)[0], test=test)
    trains = stages == "[2]" and not test
    assert run.precision.dtype is (torch.float32 if trains else torch.bfloat16)
    assert f"cpu, {'float32' if trains else 'bfloat16'};" in (tmp_path / "run/train_log.txt").read_text()

"""The curves that a training keeps: one picture and, where it is installed, TensorBoard's files."""

import pytest
from PIL import Image

from processor.reports import curves
from processor.reports.curves import Curves
from processor.runs.run import Run
from utils.compute.device import choose_device, choose_precision


@pytest.fixture
def run(tmp_path):
    run = Run(choose_precision("fp32", choose_device("cpu")), tmp_path)
    run.history = [{"stage": 2, "epoch": 1, "loss": 2.0, "lr": 0.1}]
    return run


def test_pictures_take_a_tenth_of_the_time(run, monkeypatch, drawn_charts):
    """The first after nine seconds of a stage, the next after nine times as long as the first took."""
    clock = [100.0]
    monkeypatch.setattr(curves, "_open_board", lambda *_: None)
    monkeypatch.setattr(curves.time, "perf_counter", lambda: clock[0])
    draw, drawn = curves.write_curves, []

    def slowly(run):
        draw(run)
        drawn.append(clock[0])
        clock[0] += 2.0

    monkeypatch.setattr(curves, "write_curves", slowly)
    keeper, path = Curves(run, 2, 1), run.output_dir / "curves.png"
    clock[0] = 108.9
    keeper.refresh()
    assert not path.exists()
    for clock[0] in (109.0, 128.9, 129.0):  # drawn until 111: the next is due 18 seconds later
        keeper.refresh()
        first = path.read_bytes()
    assert drawn == [109.0, 129.0]
    run.history.append({"stage": 2, "epoch": 2, "loss": 1.0, "lr": 0.1, "mAP": 10.0, "Rank-1": 20.0})
    clock[0] = 200.0
    keeper.refresh()
    keeper.close()
    assert path.read_bytes() != first and len(drawn) == 3
    with Image.open(path) as image:
        assert image.format == "PNG"


def test_scalars(run):
    pytest.importorskip("tensorboard", reason="SKIPPED: tensorboard is not installed (requirements-extra.txt)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    keeper = Curves(run, 2, 1)
    keeper.refresh()
    run.history.append({"stage": 2, "epoch": 2, "loss": 1.0, "lr": 0.1, "mAP": 10.0})
    keeper.refresh()
    keeper.close()
    read = EventAccumulator(str(run.output_dir / "tensorboard" / "stage2")).Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 2.0), (2, 1.0)]
    assert [(e.step, e.value) for e in read.Scalars("mAP")] == [(2, 10.0)]


def test_without_tensorboard_one_line_says_how_to_get_it(run, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    run.history.clear()
    with caplog.at_level("INFO", "clipreid"):
        assert Curves(run, 1, 1).board is None
    assert "requirements-extra.txt" in caplog.text


def test_a_run_that_starts_over_leaves_no_curve_of_the_run_before(run):
    """Not even of a stage that it does not run."""
    board = run.output_dir / "tensorboard"
    old = [board / f"stage{stage}" / "events.out.tfevents.1.host.2.0" for stage in (1, 2)]
    for path in old:
        path.parent.mkdir(parents=True)
        path.touch()
    Curves(run, 2, 2).close()
    assert all(path.exists() for path in old), "a resumed run keeps its own"
    run.history.clear()
    Curves(run, 2, 1).close()
    assert not any(path.exists() for path in old)

"""Curves of a training while it runs: ``curves.png``, and TensorBoard's scalars where that is installed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from processor.runs.run import Run
from utils.compute.distributed import is_main
from utils.console.logger import LOGGER
from utils.optional import MissingPackageError, import_optional
from utils.plots.curves import save_figure, training_curves

PATIENCE = 9.0
"""Seconds before a stage's first picture; :func:`processor.reports.tables.finish_run` draws in any case."""

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def write_curves(run: Run) -> None:
    """Draw ``curves.png`` from all epochs so far."""
    if run.history and is_main():
        save_figure(training_curves(run.history, run.results, run.alignment), run.output_dir / "curves.png")


class Curves:
    """Keeps the curves of one stage up to date.

    Args:
        run: its history is drawn.
        stage: 1 or 2.
        epoch: the first that will be shown; what an interrupted run wrote from there on is replaced.
    """

    def __init__(self, run: Run, stage: int, epoch: int) -> None:
        self.run = run
        self.board = _open_board(run, stage, epoch)
        self.due = time.perf_counter() + PATIENCE

    def refresh(self) -> None:
        """Show the epoch that has just ended; ``curves.png`` if drawing it takes no more than a tenth of the time."""
        began = time.perf_counter()
        if began >= self.due:
            write_curves(self.run)
            ended = time.perf_counter()
            self.due = ended + 9 * (ended - began)
        if self.board is not None:
            entry = self.run.history[-1]
            for name, value in entry.items():
                if name not in ("stage", "epoch") and isinstance(value, int | float):
                    self.board.add_scalar(name, value, entry["epoch"])
            self.board.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.board is not None:
            self.board.close()


def _open_board(run: Run, stage: int, epoch: int) -> SummaryWriter | None:
    if not is_main():
        return None
    if not run.history:  # nothing is resumed: curves here belong to the run before, perhaps of a stage that is not run
        for old in (run.output_dir / "tensorboard").glob("stage*/events.out.tfevents.*"):
            old.unlink(missing_ok=True)
    # One folder a stage: its epochs count from 1 again, and purging the second must leave the first alone.
    try:
        import_optional("tensorboard")
        board = import_optional("torch.utils.tensorboard")
    except MissingPackageError as error:
        if not run.history:
            LOGGER.info(
                "curves in curves.png only (%s); for TensorBoard's: pip install -r requirements-extra.txt", error
            )
        return None
    return board.SummaryWriter(str(run.output_dir / "tensorboard" / f"stage{stage}"), purge_step=epoch)

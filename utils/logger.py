"""One log for a run: the terminal and ``train_log.txt`` say the same."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tqdm import tqdm

LOGGER = logging.getLogger("clipreid")
"""The project's logger; every module logs here."""


class _TerminalHandler(logging.Handler):
    """Writes above a progress bar instead of through it; errors go to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        tqdm.write(self.format(record), file=stream)
        stream.flush()


def setup_logger(file: Path) -> None:
    """Send everything to standard output and, appended, to ``file``."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    close_logger()
    to_file = logging.FileHandler(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    on_terminal = _TerminalHandler()
    on_terminal.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    LOGGER.addHandler(to_file)
    LOGGER.addHandler(on_terminal)


def close_logger() -> None:
    """Detach and close all handlers."""
    for handler in LOGGER.handlers[:]:
        LOGGER.removeHandler(handler)
        handler.close()


def on_terminal() -> bool:
    """Whether a person is watching, so that progress bars make sense."""
    return sys.stderr.isatty()

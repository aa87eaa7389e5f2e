"""One log for a run: the terminal and ``train_log.txt`` have the same lines; the file has shortened paths."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from utils.compute.distributed import is_main, rank
from utils.console.terminal import colours_shown, is_watched, show
from utils.files.paths import ShortPaths
from utils.files.text_files import printable, refuse_pipes

LOGGER = logging.getLogger("clipreid")
"""The project's logger; every module logs here."""


_COLOURS = {logging.WARNING: "33", logging.ERROR: "31"}
"""Terminal codes of yellow and red."""


class _Formatter(logging.Formatter):
    """Lines that can be shared and printed anywhere: with short paths.

    File names may hold control characters, which steer terminals, and bytes that are no text: both are written as
    escapes. Further lines of a message are indented, so that a name with a line break cannot pass for an entry.
    """

    def __init__(self, form: str, clock: str, shorten: Callable[[str], str]) -> None:
        super().__init__(form, clock)
        self.shorten = shorten

    def format(self, record: logging.LogRecord) -> str:
        return printable(self.shorten(super().format(record)), keep="\n\t").replace("\n", "\n    ")


class _FileHandler(logging.FileHandler):
    """A full disk must not fill the terminal with tracebacks of the log."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _TerminalHandler(logging.Handler):
    """Writes above a progress bar instead of through it; errors go to standard error, as does all if ``aside``.

    Warnings and errors are coloured on a terminal.
    """

    def __init__(self, aside: bool = False) -> None:
        super().__init__()
        self.aside = aside

    def emit(self, record: logging.LogRecord) -> None:
        aside = self.aside or record.levelno >= logging.ERROR
        text, colour = self.format(record), _COLOURS.get(record.levelno)
        show(f"\033[{colour}m{text}\033[0m" if colour and colours_shown(aside) else text, aside)


def setup_logger(file: Path, shorten: ShortPaths | None = None) -> None:
    """Send everything to standard output and, appended, to ``file``; only errors where another process does that.

    Args:
        file: the log.
        shorten: how paths are written into it; the terminal, which is private, shows full paths.

    Raises:
        ReIDError: ``file`` is a pipe, a device or a folder.
        OSError: it cannot be written to.
    """
    refuse_pipes(file, "written", "Remove it, or choose another OUTPUT_DIR.")
    speaker = "" if is_main() else f"process {rank()}: "
    to_file = _FileHandler(file, encoding="utf-8", delay=not is_main())
    form = f"%(asctime)s %(levelname)s {speaker}%(message)s"
    to_file.setFormatter(_Formatter(form, "%Y-%m-%d %H:%M:%S", shorten or ShortPaths()))
    on_terminal = _TerminalHandler()
    on_terminal.setFormatter(_Formatter(f"%(asctime)s {speaker}%(message)s", "%H:%M:%S", ShortPaths()))
    for handler in (to_file, on_terminal):
        handler.setLevel(logging.INFO if is_main() else logging.ERROR)
    _use(to_file, on_terminal)


def setup_console(aside: bool = True) -> None:
    """Send everything to standard error, since standard output is for a command's results; otherwise to that."""
    on_terminal = _TerminalHandler(aside)
    on_terminal.setFormatter(_Formatter("%(message)s", "", str))
    _use(on_terminal)


def _use(*handlers: logging.Handler) -> None:
    close_logger()
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for handler in handlers:
        LOGGER.addHandler(handler)


def close_logger() -> None:
    """Detach and close all handlers: messages go where a program that uses the project as a library sends them."""
    LOGGER.propagate = True
    LOGGER.setLevel(logging.NOTSET)
    for handler in LOGGER.handlers[:]:
        LOGGER.removeHandler(handler)
        handler.close()


def on_terminal() -> bool:
    """Whether progress bars are shown: on a terminal, by one process."""
    return is_watched() and is_main()

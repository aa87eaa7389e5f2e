"""The end of every command: one message, without a traceback, for errors that the user can correct."""

from __future__ import annotations

import re
from collections.abc import Callable

from utils.compute.distributed import joined_processes, leave_at_once, lost_process, may_report, note_stop, stop_noted
from utils.compute.memory import keep_freed_memory
from utils.compute.workers import kill_workers, lost_worker
from utils.console.folder_lock import release_folder
from utils.console.interrupt import EXIT_STATUS as STOPPED_STATUS
from utils.console.interrupt import InterruptedRunError, catch_signals, interrupt_requested
from utils.console.logger import LOGGER, close_logger
from utils.console.terminal import finish_output, show
from utils.errors import EXIT_STATUS, ReIDError

WORKER_LOST = (
    "a process that reads images died ({}). The usual cause is too little memory: lower DATALOADER.NUM_WORKERS or "
    "the batch size. The same command resumes from the last saved state."
)

PROCESS_LOST = (
    "another process of this run died ({}). Its message is above or in the log of its machine; if there is none, the "
    "system probably killed it for lack of memory. The same command resumes from the last saved state."
)


def run_script(script: Callable[[], None]) -> int:
    """Run ``script`` and return its exit status.

    A :class:`ReIDError` becomes one message and status 2, as does the loss of a loader process or of another one that
    trains along; a signal, status 3.
    """
    keep_freed_memory()
    with catch_signals():
        status = _run(script)
        finish_output()
        if status:
            leave_at_once(status)  # within: torchrun sends signals to all when the first one leaves
    return status


def _run(script: Callable[[], None]) -> int:
    try:
        with joined_processes():
            script()
    except InterruptedRunError as error:
        note_stop()
        LOGGER.warning("%s", error)
        return STOPPED_STATUS
    except (ReIDError, RuntimeError) as error:
        message = _explain(error)
        if message is None:
            raise
        if stop_noted() or (lost_worker(error) and interrupt_requested()):
            LOGGER.warning("stopped, and others with it; the same command resumes from the last saved state")
            return STOPPED_STATUS
        if may_report():
            _report(f"error: {message}")
        kill_workers()  # loader processes with unread batches take seconds to end
        return EXIT_STATUS
    finally:
        close_logger()
        release_folder()
    return 0


def _explain(error: ReIDError | RuntimeError) -> str | None:
    """The message for the user; None for an error that is the program's own."""
    if lost_worker(error):
        return WORKER_LOST.format(error)
    if lost_process(error):
        what = re.sub(r"^\[[^]]*\] *", "", str(error).strip()).splitlines()[0].partition(". ")[0]
        return PROCESS_LOST.format(f"{what}.")
    return _without_worker_traceback(str(error)) if isinstance(error, ReIDError) else None


def _report(message: str) -> None:
    if LOGGER.handlers:
        LOGGER.error("%s", message)
    else:
        show(message, aside=True)


def _without_worker_traceback(message: str) -> str:
    """A loader process hands its error over as text: the traceback, then the exception's name and message."""
    if not message.startswith("Caught ReIDError"):
        return message
    return message.rpartition("utils.errors.ReIDError: ")[2].strip()

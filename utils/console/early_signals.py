"""Ctrl-C while a command is being loaded. Importing this module is all there is to do, before the slow packages.

Loading torch takes seconds in which nothing can be saved and no code of the project runs. A traceback through torch's
imports is useless, so the signal ends the command without one. Where the project is imported as a library, signals are
left alone.
"""

import signal
import sys
import threading
from pathlib import Path

COMMANDS = ("train_clipreid.py", "test_clipreid.py", "clipreid-")
"""Names, or their beginnings, under which the scripts are started. ``-m`` stands for the name of a module while
Python imports the packages above it."""


def _is_command() -> bool:
    name = Path(sys.argv[0]).name if sys.argv else ""
    return name == "-m" or name.startswith(COMMANDS)


if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

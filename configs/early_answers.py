"""``--help`` and a wrong configuration are answered before torch is loaded, which takes seconds.

Importing this module is all there is to do, first in the two scripts. What it finds right is read again by the script.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import utils.console.early_signals  # noqa: F401 -- Ctrl-C while the packages below are loaded
from configs import load_config
from configs.command_lines import test_arguments, training_arguments
from utils.console.terminal import show
from utils.errors import EXIT_STATUS, ReIDError

SCRIPTS = {
    "train_clipreid": training_arguments,
    "clipreid-train": training_arguments,
    "test_clipreid": test_arguments,
    "clipreid-test": test_arguments,
}
"""By the name under which a script is started, without .py or .exe."""


def _answer() -> None:
    arguments_of = SCRIPTS.get(Path(sys.argv[0]).stem if sys.argv else "")
    # Of several processes one reports an error, once they are connected.
    if arguments_of is None or "RANK" in os.environ or multiprocessing.parent_process() is not None:
        return
    arguments = arguments_of(sys.argv[1:])
    try:
        load_config(arguments.config_file, arguments.opts)
    except ReIDError as error:
        show(f"error: {error}", aside=True)
        sys.exit(EXIT_STATUS)


_answer()

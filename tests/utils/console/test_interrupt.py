"""The first signal is recorded, its repetitions have no effect, and a later one ends the process."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from utils.console import interrupt
from utils.console.command_line import run_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def own_handler():
    """The handler of a second Ctrl-C as in a shell; shells ignore the signal in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_the_message_before_any_saved_state_differs():
    with interrupt.catch_signals():
        interrupt.check_interrupt("evaluation")
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(interrupt.InterruptedRunError, match=r"stopped at evaluation; .*saved before") as caught:
            interrupt.check_interrupt("evaluation")
    assert "saved:" not in str(caught.value)


def test_echoes_of_a_signal_do_not_act(own_handler, monkeypatch):
    with interrupt.catch_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # torchrun passes on what the batch system has sent already
        signal.raise_signal(signal.SIGINT)
        assert interrupt.interrupt_requested()
        monkeypatch.setattr(interrupt, "IMPATIENCE", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is own_handler


def test_a_program_that_trains_in_a_thread_keeps_its_signals():
    found = []

    def script():
        interrupt.check_interrupt("here")
        found.append(signal.getsignal(signal.SIGINT))

    before, statuses = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: statuses.append(run_script(script)))
    thread.start()
    thread.join()
    assert statuses == [0] and found == [before]


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.catch_signals():
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.interrupt_requested()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with interrupt.catch_signals():
            signal.raise_signal(signal.SIGHUP)
            assert interrupt.interrupt_requested()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "command",
    [
        *(f"{name}_clipreid.py --config_file configs/hand/demo.yml" for name in ("train", "test")),
        "-m processor.compare",
        "-m datasets.inspect",
        "-m model.export",
        "-c",
    ],
)
def test_ctrl_c_while_torch_is_loaded(tmp_path, command):
    """A program that only uses the project gets Python's exception."""
    slow = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    for name in ("torch", "numpy", "PIL"):
        (tmp_path / f"{name}.py").write_text(slow)
    done = subprocess.run(
        [sys.executable, *command.split(), *(["import processor"] if command == "-c" else [])],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == -signal.SIGINT
    assert ("KeyboardInterrupt" in done.stderr) == (command == "-c") and (done.stderr == "") == (command != "-c")

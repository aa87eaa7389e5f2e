"""A run continues with any terminal, and without one."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.console.command_line import run_script
from utils.console.logger import LOGGER, on_terminal, setup_console, setup_logger
from utils.console.terminal import show, show_results
from utils.errors import ReIDError

ROOT = Path(__file__).resolve().parents[3]
HAND = "\u624b.jpg"


class Failing(io.StringIO):
    """A stream whose writes all fail with an error of the operating system."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def windows():
    return io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\n")


STREAMS = {
    "broken pipe": lambda: Failing(errno.EPIPE),
    "full disk": lambda: Failing(errno.ENOSPC),
    "lost terminal": lambda: Failing(errno.EIO),
    "closed": closed,
    "none": lambda: None,
    "cp1252": windows,
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_run_continues_whatever_becomes_of_its_terminal(tmp_path, monkeypatch, name):
    done = []

    def script():
        setup_logger(tmp_path / "log.txt")
        assert not on_terminal()
        for number in range(3):
            LOGGER.info("%d %s", number, HAND)
            LOGGER.error("%d %s", number, HAND)
        done.append(True)
        raise ReIDError("the end")

    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, STREAMS[name]())
    assert run_script(script) == 2 and done
    assert (tmp_path / "log.txt").read_text("utf-8").count(HAND) == 6
    if name == "cp1252":
        assert sys.stdout.buffer.getvalue().decode("cp1252").count("\\u624b.jpg") == 3


def test_an_error_before_there_is_a_log(monkeypatch):
    def script():
        raise ReIDError(HAND)

    for make in STREAMS.values():
        monkeypatch.setattr(sys, "stderr", make())
        assert run_script(script) == 2


@pytest.mark.parametrize("name", STREAMS)
def test_results_that_are_lost_are_an_error(monkeypatch, name):
    monkeypatch.setattr(sys, "stdout", STREAMS[name]())
    if name in ("broken pipe", "cp1252"):  # the reader has seen enough; the character is escaped
        show_results(f"{HAND}\n")
    else:
        with pytest.raises(ReIDError, match="standard output cannot be written to"):
            show_results(HAND)


def test_names_do_not_steer_the_terminal_of_a_command(capsys):
    setup_console()
    LOGGER.info("a\x1b[2J\udcff.jpg")
    assert capsys.readouterr().err == "a\\x1b[2J\\udcff.jpg\n"
    setup_console(aside=False)
    LOGGER.info("written")
    assert capsys.readouterr().out == "written\n"


def test_colours_only_on_a_terminal(monkeypatch, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stdout", stream)
        setup_logger(tmp_path / "log.txt")
        LOGGER.warning("careful")
        assert stream.getvalue().startswith("\033[33m") == coloured


@pytest.mark.parametrize("target", ["/dev/full", "pipe"])
def test_what_is_still_buffered_does_not_change_the_exit_status(target):
    """Python ends with status 120 if it cannot write what it holds."""
    program = "from utils.console.terminal import finish_output, show\nshow('a')\nshow('b')\nfinish_output()"
    if target == "pipe":
        reader, output = os.pipe()
        os.close(reader)
    else:
        output = os.open(target, os.O_WRONLY)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True)
    os.close(output)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_line_stands_above_the_bars(capsys):
    show("one")
    show("two", aside=True)
    assert tuple(capsys.readouterr()) == ("one\n", "two\n")

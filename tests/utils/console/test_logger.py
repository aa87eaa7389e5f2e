"""The terminal and the file have the same lines."""

import os

import pytest

from utils.console.logger import LOGGER, close_logger, setup_logger
from utils.errors import ReIDError
from utils.files.paths import ShortPaths


def test_file_and_terminal(tmp_path, capsys):
    setup_logger(tmp_path / "log.txt")
    LOGGER.info("mAP %.1f", 12.34)
    LOGGER.warning("größer")
    LOGGER.debug("unseen")
    terminal = capsys.readouterr().out.splitlines()
    file = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in terminal] == ["mAP 12.3", "größer"]
    assert [line.split(" ", 2)[2] for line in file] == ["INFO mAP 12.3", "WARNING größer"]


def test_a_second_run_goes_to_its_own_file_and_appends(tmp_path, capsys):
    for name in ("a", "b", "a"):
        setup_logger(tmp_path / name)
        LOGGER.info("to %s", name)
    assert [line.rsplit(" ", 1)[1] for line in (tmp_path / "a").read_text().splitlines()] == ["a", "a"]
    assert len((tmp_path / "b").read_text().splitlines()) == 1
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_closing(tmp_path):
    setup_logger(tmp_path / "log.txt")
    close_logger()
    assert not LOGGER.handlers
    LOGGER.info("after closing")
    assert (tmp_path / "log.txt").read_text() == ""


def test_no_name_of_a_file_steers_a_terminal_or_passes_for_an_entry(tmp_path, capsys):
    setup_logger(tmp_path / "log.txt")
    LOGGER.warning("note: %s", "a\n2026-01-01 00:00:00 ERROR disk full\x1b[2J\udcff\u202e\u200d.jpg")
    expected = r"ERROR disk full\x1b[2J\udcff\u202e" + "\u200d.jpg"
    for said in (capsys.readouterr().out, (tmp_path / "log.txt").read_text(encoding="utf-8")):
        first, second = said.splitlines()
        assert first.endswith("note: a") and second == f"    2026-01-01 00:00:00 {expected}"


def test_the_file_holds_shorter_paths_than_the_terminal(tmp_path, capsys):
    setup_logger(tmp_path / "log.txt", ShortPaths(["/mnt/lab/hands"]))
    LOGGER.info("%s", "/mnt/lab/hands/a.jpg")
    assert "/mnt/lab/hands/a.jpg" in capsys.readouterr().out
    assert (tmp_path / "log.txt").read_text().endswith("INFO .../hands/a.jpg\n")


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_the_log_is_refused(tmp_path):
    os.mkfifo(tmp_path / "log.txt")
    with pytest.raises(ReIDError, match=r"log\.txt: cannot be written \(it is not a regular file\)"):
        setup_logger(tmp_path / "log.txt")

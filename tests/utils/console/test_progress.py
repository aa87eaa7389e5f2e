"""Progress bars count images, and are silent without a terminal. Averages over an epoch."""

import logging
import time

import torch
from torch.utils.data import DataLoader

from utils.console import progress, terminal
from utils.console.logger import LOGGER, setup_console, setup_logger
from utils.console.progress import Meters


def loader():
    return DataLoader([{"images": number} for number in range(10)], batch_size=4)


def test_images_are_counted(monkeypatch, capsys):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    monkeypatch.setattr(progress, "PATIENCE", 0)
    seen = []
    for batch in progress.counted(loader(), "looking"):
        seen += batch["images"].tolist()
        time.sleep(0.12)  # the bar is drawn ten times a second
    assert seen == list(range(10))
    said = capsys.readouterr().err
    assert "looking" in said and "8/10" in said and "images/s" in said


def test_silence(capsys):
    list(progress.counted(loader(), "looking"))
    assert capsys.readouterr() == ("", "")


class Terminal:
    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_colours_on_a_terminal_only(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("NO_COLOR", raising=False)
    setup_logger(tmp_path / "log.txt")
    LOGGER.warning("plain")
    assert "\033" not in capsys.readouterr().out
    screen = Terminal()
    monkeypatch.setattr(terminal.sys, "stdout", screen)
    LOGGER.warning("yellow")
    LOGGER.info("no colour")
    assert "\033[33m" in screen.text.splitlines()[0] and "\033" not in screen.text.splitlines()[1]
    monkeypatch.setenv("NO_COLOR", "1")
    LOGGER.warning("asked not to")
    assert "\033" not in screen.text.splitlines()[2]
    assert "\033" not in (tmp_path / "log.txt").read_text()


def test_commands_keep_their_output_clean(capsys):
    setup_console()
    LOGGER.log(logging.INFO, "aside")
    assert capsys.readouterr() == ("", "aside\n")


def test_means_are_weighted_by_images():
    meters = Meters()
    meters.update({"loss": torch.tensor(1.0), "id": torch.tensor(4.0)}, 3)
    meters.update({"loss": torch.tensor(5.0), "id": torch.tensor(0.0)}, 1)
    assert meters.means() == {"loss": 2.0, "id": 3.0} and meters.count == 4


def test_means_of_nothing():
    assert Meters().means() == {} and Meters().count == 0


def test_half_precision_does_not_saturate_and_no_graph_is_kept():
    meters = Meters()
    value = torch.tensor(1000.0, dtype=torch.float16, requires_grad=True)
    for _ in range(100):
        meters.update({"loss": value * 1}, 64)
    assert meters.means() == {"loss": 1000.0}
    assert not any(total.requires_grad for total in meters._sums.values())

"""Error rates in the closing table."""

import logging

import pytest

from processor.reports.error_rates import COLUMNS, error_rates
from processor.reports.tables import log_table
from utils.console.logger import LOGGER

VERIFICATION = {
    "EER": 1.234,
    "EER interval": [0.5, 2.0],
    "TAR at FAR 0.01": 98.76,
    "TAR at FAR 0.001": None,
    "genuine pairs": 180,
    "impostor pairs": 3420,
    "intervals": {"mAP": [90.0, 95.5]},
}
SHOWN = ["[90.00, 95.50]", "-", "1.23 [0.50, 2.00]", "98.76", "-", "180 / 3,420"]


def test_texts():
    assert list(error_rates({"verification": VERIFICATION}).values()) == SHOWN
    assert list(error_rates({"verification": VERIFICATION})) == list(COLUMNS)


def test_small_rates_keep_significant_digits():
    found = {"EER": 0.000017, "EER interval": [0.0000021, 0.00031]}
    assert error_rates({"verification": found})["EER"] == "0.000017 [0.0000021, 0.00031]"


def test_of_several_splits_the_first_is_named():
    row = {"verification": VERIFICATION, "runs": [{"run": 3}, {"run": 4}]}
    shown = error_rates(row)
    assert shown["EER"] == "1.23 [0.50, 2.00] (split 3)" and shown["TAR at FAR 0.1 %"] == "-"


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_an_interval_without_width_is_none(value):
    """Earlier runs had such intervals where no error was seen."""
    shown = error_rates({"verification": {"EER": value, "EER interval": [value, value]}})["EER"]
    assert shown == f"{value:.2f} (no spread in the sample)"


@pytest.mark.parametrize("found", [None, "x", {}, {"EER": "x", "EER interval": [1], "genuine pairs": 1.5}])
def test_what_was_not_measured(found):
    assert set(error_rates({"verification": found}).values()) == {"-"}


def test_closing_table(caplog):
    caplog.set_level(logging.INFO, LOGGER.name)
    numbers = {"mAP": 90.0, "Rank-1": 91.0, "Rank-5": 92.0, "Rank-10": 93.0}
    log_table({"untrained": numbers, "trained": numbers | {"verification": VERIFICATION}}, "closing")
    lines = caplog.messages
    (line,) = (line for line in lines if line.startswith("trained") and "1.23" in line)
    header = lines[lines.index(line) - 1]
    assert line.split() == ["trained", "[90.00,", "95.50]", "1.23", "[0.50,", "2.00]", "98.76", "180", "/", "3,420"]
    assert "EER" in header and "TAR at FAR 1 %" in header and "0.1 %" not in header and len(header) == len(line)
    assert lines[-1] == "closing"

"""Both scripts in the test's own process, and what they leave in a run's folder."""

import json

import test_clipreid
import train_clipreid


def words(options):
    """Configuration keys and values as words of a command line."""
    return [str(word) for pair in options.items() for word in pair]


def train(file, *argv):
    assert train_clipreid.main(["--config_file", *map(str, (file, *argv))]) == 0


def evaluate(file, *argv):
    assert test_clipreid.main(["--config_file", *map(str, (file, *argv))]) == 0


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def log_of(folder):
    return (folder / "train_log.txt").read_text()

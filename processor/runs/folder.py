"""A finished run's folder, read and checked as untrusted input: numbers, configuration, queries."""

from __future__ import annotations

import itertools
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs import read_tree
from utils.errors import ReIDError
from utils.files.paths import ShortPaths
from utils.files.text_files import read_text

MEASURES = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")
TRAINED = ("best", "trained", "zero-shot")
"""Kinds of rows that end a training; each has its files under the names without ``_test``."""
COUNTS = ("images", "identities", "cameras", "views")
LARGEST_QUERIES = 1 << 30
"""Bytes of ``queries.npz``, unpacked."""


class RunFolder(NamedTuple):
    """A finished run: its folder, ``metrics.json``, configuration, the name of its result and the files' suffix."""

    folder: Path
    metrics: dict[str, Any]
    settings: dict[str, Any]
    name: str
    suffix: str

    @property
    def result(self) -> dict[str, Any]:
        """The numbers of the run's last evaluation."""
        return self.metrics["results"][self.name]

    def replicates(self) -> Mapping[str, np.ndarray]:
        """Bootstrap replicates [B] by measure; nothing where none were kept, or they cannot be read."""
        path = self.folder / f"replicates{self.suffix}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                return {
                    name: file[name] for name in file.files if file[name].ndim == 1 and file[name].dtype.kind == "f"
                }
        except Exception:  # damaged archives raise any exception; the queries' numbers are used instead
            return {}

    def queries(self) -> Mapping[str, np.ndarray] | None:
        """``path``, ``identity`` and ``average_precision`` [Q] of each query; None where they were not kept.

        Raises:
            ReIDError: the file is not one that a run wrote.
        """
        path = self.folder / f"queries{self.suffix}.npz"
        if not path.is_file():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > LARGEST_QUERIES:
                    raise ValueError(f"it holds more than {LARGEST_QUERIES >> 20} MiB")
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in ("path", "identity", "average_precision")}
            kinds = [values.dtype.kind for values in columns.values()]
            if kinds != ["U", "U", "f"] or len({values.shape for values in columns.values()}) > 1:
                raise ValueError("its columns are not two of text and one of numbers, of one length")
            if columns["path"].ndim != 1:
                raise ValueError("its columns are tables")
        except Exception as error:  # damaged archives raise about anything
            raise ReIDError(
                f"{path}: not the queries of a run ({type(error).__name__}: {error}). Test the run again, or remove "
                "the file to compare without it."
            ) from None
        return columns


def kind(row: str) -> str:
    """The name of a row in ``metrics.json`` without its number: ``test`` for ``test 2``."""
    return re.sub(r" \d+$", "", row)


def below_start(results: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """The warning for a trained model that is worse than its start (``TEST.BEFORE_TRAINING``); else empty."""
    start, end = results.get("untrained"), results.get(name)
    if not start or not end or kind(name) not in ("best", "trained") or end["mAP"] >= start["mAP"]:
        return ""
    if start.get("images") != end.get("images"):
        return ""
    return (
        f"training made the model worse: mAP {end['mAP']:.1f} %, {start['mAP']:.1f} % before. A lower "
        "SOLVER.STAGE2.BASE_LR, frozen layers (FREEZE, FREEZE_STATISTICS) or first epochs for the new layers alone "
        "(HEAD_EPOCHS) keep more of a good start"
    )


def read_metrics(path: Path) -> dict[str, Any]:
    """``metrics.json`` of a run.

    Raises:
        ReIDError: the file cannot be read.
        ValueError: it is not one that a run wrote.
    """
    try:
        metrics = json.loads(read_text(path))
        _check(metrics)
        json.dumps(metrics, allow_nan=False)  # it has to be written again
    except RecursionError:
        raise ValueError("its groups nest too deep") from None
    return metrics


def holds_training(folder: Path) -> bool:
    """Whether ``folder`` holds results of a training, whose files a test must keep; True if unreadable."""
    path = folder / "metrics.json"
    try:
        return any(kind(row) in TRAINED for row in read_metrics(path)["results"])
    except (ReIDError, ValueError):
        return path.exists()


def back_up(path: Path) -> Path:
    """Keep a file under the first free name: ``metrics_before.json``, ``metrics_before2.json``, ...

    Raises:
        ReIDError: the folder cannot be written to.
    """
    names = (path.with_stem(f"{path.stem}_before{number if number > 1 else ''}") for number in itertools.count(1))
    free = next(name for name in names if not name.exists())
    try:
        return path.replace(free)
    except OSError as error:
        raise ReIDError(f"{path}: cannot be renamed to {free.name} ({error.strerror}). Check its folder.") from None


def read_run(folder: Path, test: bool = False) -> RunFolder:
    """What lies in ``folder``: the last training, whose files are there; of tests, and if ``test``, the last test.

    Raises:
        ReIDError: it is no finished run.
    """
    try:
        metrics = read_metrics(folder / "metrics.json")
        trained, tests = ([row for row in metrics["results"] if kind(row) in kinds] for kinds in (TRAINED, ("test",)))
        rows = trained if trained and not test else tests
        if not rows:
            raise ValueError(f"it holds no {'test' if test else 'finished evaluation'}")
        suffix = "_test" if test and (folder / "config_test.yml").is_file() else ""
        settings = flatten(read_tree(folder / f"config{suffix}.yml"))
    except (ReIDError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error) if isinstance(error, ReIDError) else f"{type(error).__name__}: {error}"
        raise ReIDError(
            f"{folder}: not the folder of a finished run ({reason}). Name an OUTPUT_DIR that holds metrics.json and "
            "config.yml."
        ) from None
    shorten = ShortPaths(value for value in settings.values() if isinstance(value, str))
    return RunFolder(folder, shorten.everywhere(metrics), shorten.everywhere(settings), rows[-1], suffix)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as ``GROUP.KEY``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _check(metrics: Any) -> None:
    """Raise ValueError unless ``metrics`` has what :func:`processor.reports.tables.finish_run` writes."""
    _require(metrics, {"results": dict, "seconds": float, "history": list, "environment": dict}, "metrics.json")
    _require_if_there(metrics, {"parameters_trained": int, "alignment": dict}, "metrics.json")
    for name, row in metrics["results"].items():
        kinds = {**dict.fromkeys(MEASURES, float), "queries": int, "queries_without_match": int, "seconds": float}
        _require(row, kinds | dict.fromkeys(("weights", "dataset", "model", "method"), str), f"result {name}")
        _require_if_there(row, {"EER": float, "images": str, "root": str, "protocol": dict}, f"result {name}")
    data = metrics.get("data")
    if data is not None:
        _require(data, {"name": str, "camera_rule": str, "splits": dict, "notes": list}, "data")
        for split, counts in data["splits"].items():
            _require(counts, dict.fromkeys(COUNTS, int), split)


def _require_if_there(node: dict, kinds: Mapping[str, type], where: str) -> None:
    _require(node, {key: kind for key, kind in kinds.items() if key in node}, where)


def _require(node: Any, kinds: Mapping[str, type], where: str) -> None:
    if not isinstance(node, dict):
        raise ValueError(f"{where} is no group of names and values")
    for key, kind in kinds.items():
        value = node.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
        fits = number and isinstance(value, (int, float) if kind is float else int)
        if not (fits if kind in (int, float) else isinstance(value, kind)):
            raise ValueError(f"{where}: {key} is {str(value)[:60]!r}, expected {kind.__name__}")

"""A finished run's folder, read back and checked, since anybody may have made it: numbers, configuration, queries."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import ReIDError
from utils.paths import ShortPaths
from utils.text_files import read_text

MEASURES = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")
COUNTS = ("images", "identities", "cameras", "views")
LARGEST_QUERIES = 1 << 30
"""Bytes of ``queries.npz``, unpacked."""


class RunFolder(NamedTuple):
    """What a run left: its folder, ``metrics.json``, configuration, the name of its result and the files' suffix."""

    folder: Path
    metrics: dict[str, Any]
    settings: dict[str, Any]
    name: str
    suffix: str

    @property
    def result(self) -> dict[str, Any]:
        """The numbers of the run's last evaluation."""
        return self.metrics["results"][self.name]

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


def read_run(folder: Path, test: bool = False) -> RunFolder:
    """What lies in ``folder``; of a training that was also tested there, the test if ``test``.

    Raises:
        ReIDError: it is no finished run.
    """
    # The caller is a command, on top of everything; see processor/html_report.py.
    from configs import read_tree

    try:
        metrics = json.loads(read_text(folder / "metrics.json"))
        _check(metrics)
        finished = [name for name in ("best", "trained", "zero-shot") if name in metrics["results"]]
        name = finished[0] if finished and not test else "test"
        suffix = "_test" if test and (folder / "config_test.yml").is_file() else ""
        metrics["results"][name]
        settings = flatten(read_tree(folder / f"config{suffix}.yml"))
    except (ReIDError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error) if isinstance(error, ReIDError) else f"{type(error).__name__}: {error}"
        raise ReIDError(
            f"{folder}: not the folder of a finished run ({reason}). Name an OUTPUT_DIR that holds metrics.json and "
            "config.yml."
        ) from None
    shorten = ShortPaths(value for value in settings.values() if isinstance(value, str))
    return RunFolder(folder, shorten.everywhere(metrics), shorten.everywhere(settings), name, suffix)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as ``GROUP.KEY``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _check(metrics: Any) -> None:
    """Raise ValueError unless ``metrics`` has what :func:`processor.report.finish_run` writes."""
    _require(metrics, {"results": dict, "seconds": float, "history": list, "environment": dict}, "metrics.json")
    for name, row in metrics["results"].items():
        kinds = {**dict.fromkeys(MEASURES, float), "queries": int, "queries_without_match": int, "seconds": float}
        _require(row, kinds | dict.fromkeys(("weights", "dataset", "model", "method"), str), f"result {name}")
    data = metrics.get("data")
    if data is not None:
        _require(data, {"name": str, "camera_rule": str, "splits": dict, "notes": list}, "data")
        for split, counts in data["splits"].items():
            _require(counts, dict.fromkeys(COUNTS, int), split)


def _require(node: Any, kinds: Mapping[str, type], where: str) -> None:
    if not isinstance(node, dict):
        raise ValueError(f"{where} is no group of names and values")
    for key, kind in kinds.items():
        value = node.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
        fits = number and isinstance(value, (int, float) if kind is float else int)
        if not (fits if kind in (int, float) else isinstance(value, kind)):
            raise ValueError(f"{where}: {key} is {str(value)[:60]!r}, expected {kind.__name__}")

"""Configuration: defaults, then a YAML file, then overrides; checked before any data is read, then frozen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from configs.checks import check_config
from configs.defaults import _C
from configs.published import RETIRED, retired_note, translate
from configs.renamed import RENAMED, renamed_note
from configs.values import leaves, set_all
from configs.yaml_files import read_tree, read_written
from utils.errors import ReIDError

__all__ = ["get_defaults", "load_config", "read_tree"]


def get_defaults() -> CfgNode:
    """A fresh, unfrozen copy of every key with its default value."""
    return _C.clone()


def load_config(file: str | Path | None = None, overrides: Sequence[str] = ()) -> tuple[CfgNode, list[str]]:
    """Read, check and freeze a configuration.

    Args:
        file: a YAML file; its ``_BASE_`` key may name another one, relative to it, whose values it overrides.
        overrides: ``[KEY, VALUE, KEY, VALUE, ...]`` as on the command line.

    Returns:
        The frozen configuration, and notes on published keys that have no effect here and on renamed keys.

    Raises:
        ReIDError: an unreadable file, an unknown key, a wrong type or an impossible combination.
    """
    cfg = get_defaults()
    notes: list[str] = []
    if file is not None:
        tree, notes = translate(read_written(Path(file)))
        set_all(cfg, _under_current_names(leaves(tree), notes), str(file))
    if len(overrides) % 2:
        raise ReIDError(
            f"command line: an odd number of words ({len(overrides)}) after the options; expected pairs KEY VALUE, "
            "e.g. SOLVER.SEED 1. Is a value missing, or are the quotes around a value with blanks?"
        )
    pairs = list(zip(overrides[::2], overrides[1::2], strict=True))
    notes += [retired_note(key) for key, _ in pairs if key in RETIRED]
    pairs = [pair for pair in pairs if pair[0] not in RETIRED]
    set_all(cfg, _under_current_names(pairs, notes), "command line")
    check_config(cfg)
    cfg.freeze()
    return cfg, notes


def _under_current_names(pairs: Iterable[tuple[str, Any]], notes: list[str]) -> list[tuple[str, Any]]:
    pairs = list(pairs)
    notes += [renamed_note(key) for key, _ in pairs if key in RENAMED]
    return [(RENAMED.get(key, key), value) for key, value in pairs]

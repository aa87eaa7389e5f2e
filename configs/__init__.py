"""Configuration: defaults, then a YAML file, then overrides; checked before any data is read, then frozen."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from configs.checks import check_config
from configs.defaults import _C
from configs.published import RETIRED, retired_note, translate
from utils.errors import ReIDError
from utils.text_files import read_text

__all__ = ["get_defaults", "load_config", "read_tree"]

BASE_KEY = "_BASE_"
DEPTH = 6
"""Groups nest three deep; a few more levels let a misplaced key be named instead of its depth."""
BASES = 32
"""Files that may build on one another."""
TOLD = 5
"""Wrong keys that one message names."""
LARGEST = 2**63
LARGEST_FILE = 1 << 20
"""Bytes; every key there is takes some ten thousand."""


class _PlainLoader(yaml.SafeLoader):
    """Values as they stand. Aliases let a kilobyte stand for more than any memory holds, or for itself."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor} is not followed: write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


def get_defaults() -> CfgNode:
    """A fresh, unfrozen copy of every key with its default value."""
    return _C.clone()


def load_config(file: str | Path | None = None, overrides: Sequence[str] = ()) -> tuple[CfgNode, list[str]]:
    """Read, check and freeze a configuration.

    Args:
        file: a YAML file; its ``_BASE_`` key may name another one, relative to it, whose values it overrides.
        overrides: ``[KEY, VALUE, KEY, VALUE, ...]`` as on the command line.

    Returns:
        The frozen configuration, and notes on published keys that have no effect here.

    Raises:
        ReIDError: an unreadable file, an unknown key, a wrong type or an impossible combination.
    """
    cfg = get_defaults()
    notes: list[str] = []
    if file is not None:
        tree, notes = translate(read_tree(Path(file)))
        _set_all(cfg, _leaves(tree), str(file))
    if len(overrides) % 2:
        raise ReIDError(
            f"command line: {len(overrides)} words after the options; expected pairs KEY VALUE, e.g. "
            "SOLVER.SEED 1. Is a value with blanks missing its quotes?"
        )
    pairs = list(zip(overrides[::2], overrides[1::2], strict=True))
    notes += [retired_note(key) for key, _ in pairs if key in RETIRED]
    _set_all(cfg, (pair for pair in pairs if pair[0] not in RETIRED), "command line")
    check_config(cfg)
    cfg.freeze()
    return cfg, notes


def read_tree(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """The mapping in ``path`` on top of the one its ``_BASE_`` names; no key or value is looked at.

    Raises:
        ReIDError: there is no such file, or it is no plain YAML mapping.
    """
    if path.suffix.lower() not in (".yml", ".yaml"):
        raise ReIDError(f"{path}: configurations are YAML files (.yml or .yaml), found {path.suffix or 'no'} suffix.")
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=3, cutoff=0.3)
        hint = f" Near it: {', '.join(near)}." if near else ""
        raise ReIDError(f"{path}: no such configuration file.{hint}")
    text = read_text(path, LARGEST_FILE)
    try:
        here = path.resolve()
        tree = yaml.load(text, _PlainLoader)
    except Exception as error:  # besides its own errors, PyYAML lets through what Python says of odd values
        raise ReIDError(f"{path}: not a readable YAML file: {error}") from None
    if here in seen:
        raise ReIDError(f"{path}: {BASE_KEY} leads back to this file. Remove one of the links.")
    if len(seen) == BASES:
        raise ReIDError(f"{path}: more than {BASES} files that name each other as {BASE_KEY}. Merge some of them.")
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ReIDError(f"{path}: expected a mapping of keys such as MODEL and SOLVER, found {type(tree).__name__}.")
    if _deeper(tree, DEPTH):
        raise ReIDError(f"{path}: more than {DEPTH} groups inside one another.")
    base = tree.pop(BASE_KEY, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ReIDError(f"{path}: {BASE_KEY} must be the name of one YAML file, found {base!r}.")
    return _merge(read_tree(path.parent / base, (*seen, here)), tree)


def _deeper(node: dict, levels: int) -> bool:
    """Whether mappings nest more than ``levels`` deep."""
    return not levels or any(_deeper(value, levels - 1) for value in node.values() if isinstance(value, dict))


def _merge(base: dict, top: dict) -> dict:
    """``top`` over ``base``, node by node; an empty node in ``top`` changes nothing."""
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _merge(base[key], value)
        elif value is not None or key not in base:
            merged[key] = value
    return merged


def _leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; an empty node is a leaf without a value."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _known(cfg: CfgNode, prefix: str = "") -> list[str]:
    return [key for key, _ in _leaves(cfg, prefix)]


def _set_all(cfg: CfgNode, pairs: Iterable[tuple[str, Any]], where: str) -> None:
    """Set dotted keys; one message tells all that is wrong with them."""
    wrong = []
    for key, value in pairs:
        try:
            _set(cfg, key, value)
        except ReIDError as error:
            wrong.append(str(error))
    if wrong:
        more = f" And {len(wrong) - TOLD} more." if len(wrong) > TOLD else ""
        raise ReIDError(f"{where}: {' Also: '.join(wrong[:TOLD])}{more}")


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    """Set one dotted key after checking that it exists and that the value has its type."""
    *path, leaf = key.split(".")
    node: Any = cfg
    for part in path:
        node = node.get(part) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node:
        known = _known(cfg)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [k for k in known if k.split(".")[-1] == leaf]
        hint = f" Did you mean {near[0]}?" if near else " configs/defaults.py lists every key."
        raise ReIDError(f"unknown key {key}.{hint}")
    if isinstance(node[leaf], CfgNode):
        if value is None or value == {}:
            return  # the published files have a DATASETS node with nothing but comments in it
        inside = ", ".join(node[leaf])
        raise ReIDError(f"{key} is a group of keys ({inside}), found the single value {value!r}.")
    node[leaf] = _typed(key, value, node[leaf])


def _typed(key: str, value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``; text such as ``1e-4`` or ``(40, 70)`` is read as a Python literal."""
    wanted = type(default)
    read = value
    if isinstance(value, str) and wanted is not str:
        read = _literal(value)
    elif isinstance(value, str) and value[:1] in "(\"'":
        # The published files write NAMES: ('market1501'), which YAML takes for text.
        literal = _literal(value)
        read = literal if isinstance(literal, str) else value
    if isinstance(read, int) and abs(read) >= LARGEST:
        raise ReIDError(f"{key}: whole numbers end at 64 bits here.")
    if wanted is float and type(read) is int:
        read = float(read)
    if wanted is list and isinstance(read, tuple):
        read = list(read)
    if wanted is str and type(read) in (int, float):
        read = str(value)
    if type(read) is not wanted:
        quotes = ""
        if isinstance(read, bool) and wanted is str:
            quotes = " YAML takes on, off, yes and no for true or false: put them in quotes."
        raise ReIDError(
            f"{key} = {value!r} is of type {type(read).__name__}; expected {wanted.__name__}, "
            f"for example {default!r}.{quotes}"
        )
    if wanted is list:
        read = [_typed(f"{key}[{i}]", item, default[0]) for i, item in enumerate(read)]
    return read


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text

"""Keys and their values: does the key exist, does the value have its type, and where may ``~`` be meant."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from yacs.config import CfgNode

from configs.defaults import _C
from configs.published import EQUIVALENT
from configs.yaml_files import WINDOWS_SCRIPT, Number
from utils.errors import ReIDError

WRONG_SHOWN = 5
"""Wrong keys that one message names."""
LARGEST = 2**63
ITEMS: dict[str, Any] = {
    "TEST.THRESHOLDS": 0.5,
    "TEST.GROUPS": "gender",
    "TEST.TARGETS": "configs/hand/hand_11k.yml",
    "SOLVER.STAGE0.LOCK": "image_encoder.",
}
"""An example item of the lists that are empty by default."""


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; an empty group is a leaf without a value."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def set_all(cfg: CfgNode, pairs: Iterable[tuple[str, Any]], where: str) -> None:
    """Set dotted keys in ``cfg``; one message names all that is wrong with them.

    Raises:
        ReIDError: an unknown key, or a value of another type. ``where`` begins the message.
    """
    wrong = []
    for key, value in pairs:
        try:
            _set(cfg, key, value)
        except ReIDError as error:
            wrong.append(str(error))
    if wrong:
        more = f" And {len(wrong) - WRONG_SHOWN} more." if len(wrong) > WRONG_SHOWN else ""
        raise ReIDError(f"{where}: {' Also: '.join(wrong[:WRONG_SHOWN])}{more}")


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *path, leaf = key.split(".")
    node: Any = cfg
    for part in path:
        node = node.get(part) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node:
        raise ReIDError(f"unknown key {key}.{_hint(cfg, key)}")
    if isinstance(node[leaf], CfgNode):
        if value is None or value == {}:
            return  # the published files have a DATASETS node with nothing but comments in it
        inside = ", ".join(node[leaf])
        raise ReIDError(f"{key} is a group of keys ({inside}), found the single value {_shown(value)}.")
    node[leaf] = _typed(key, value, node[leaf])


def _hint(cfg: CfgNode, key: str) -> str:
    """What an unknown key may mean: a key of the published code's relatives, a stage's, or a misspelt one."""
    known = [name for name, _ in leaves(cfg)]
    first, _, leaf = key.rpartition(".")
    stages = [f"SOLVER.{stage}.{leaf}" for stage in ("STAGE1", "STAGE2")] if first == "SOLVER" else []
    near = [name for name in stages if name in known] or [name for name in known if name.split(".")[-1] == leaf]
    if key in EQUIVALENT:
        return f" Here it is {EQUIVALENT[key]}."
    if not (stages and near):
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or near
    return f" Did you mean {' or '.join(near[:2])}?" if near else " configs/defaults.py lists every key."


def _typed(key: str, value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``; text such as ``1e-4`` or ``(40, 70)`` is read as a Python literal."""
    wanted = type(default)
    read = _read(key, value, wanted)
    if isinstance(read, int) and abs(read) >= LARGEST:
        raise ReIDError(f"{key}: whole numbers must fit into 64 bits.")
    if wanted is float and type(read) is int:
        read = float(read)
    if wanted is list and isinstance(read, tuple):
        read = list(read)
    if type(read) is not wanted:
        raise ReIDError(
            f"{key} = {_shown(value)} is of type {type(read).__name__}; expected {wanted.__name__}, "
            f"for example {default!r}.{_quotes(read, wanted)}"
        )
    if wanted is list:
        read = [_typed(f"{key}[{i}]", item, _first_item(key, default)) for i, item in enumerate(read)]
    return read


def _first_item(key: str, default: list) -> Any:
    """An item of the type that the list takes; the list itself may have been emptied before."""
    if default:
        return default[0]
    node: Any = _C
    for part in key.split("."):
        node = node[part]
    return node[0] if node else ITEMS[key]


def _read(key: str, value: Any, wanted: type) -> Any:
    """A number as written where text is wanted; text as the literal that it is where something else is."""
    if wanted is str:
        return _text(key, value)
    if isinstance(value, Number):
        read = literal(value.text)
        if value.text.lower().endswith((".inf", ".nan")):
            return value.value
        if isinstance(read, str):
            raise ReIDError(f"{key} = {value.text}: YAML takes this for {value.value}. Write the number that you mean.")
        return read
    return literal(value) if isinstance(value, str) else value


def _text(key: str, value: Any) -> Any:
    if isinstance(value, Number):
        value = value.text
    if isinstance(value, str) and value[:1] in "(\"'":
        # The published files write NAMES: ('market1501'), which YAML takes for text.
        read = literal(value)
        value = read if isinstance(read, str) else value
    if not isinstance(value, str):
        return value
    if value.endswith("\r"):
        raise ReIDError(f"{key} = {value!r} ends in a carriage return. {WINDOWS_SCRIPT}")
    return os.path.expanduser(value)  # noqa: PTH111 -- a Path would change texts that are no paths


def _quotes(read: Any, wanted: type) -> str:
    if isinstance(read, bool) and wanted is str:
        return " YAML takes on, off, yes and no for true or false: put them in quotes."
    return " YAML takes ~, null and nothing for no value; text needs quotes, '' is empty." if read is None else ""


def _shown(value: Any) -> str:
    return value.text if isinstance(value, Number) else repr(value)


def literal(text: str) -> Any:
    """``text`` as the Python literal that it is, such as ``1e-4`` or ``(40, 70)``; otherwise as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text

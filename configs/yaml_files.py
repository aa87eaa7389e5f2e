"""YAML files of a configuration, each on top of the one that its ``_BASE_`` names. Keys and values are not checked."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from configs.mappings import mappings_as_text
from utils.errors import ReIDError
from utils.files.text_files import read_text

BASE_KEY = "_BASE_"
DEPTH = 6
"""Groups nest three deep; a few more levels let a misplaced key be named instead of its depth."""
WINDOWS_SCRIPT = "The script that holds the command has Windows line endings: save it with those of Linux (dos2unix)."
BASES = 32
"""Files that may build on one another."""
LARGEST_FILE = 1 << 20
"""Bytes; every key there is takes some ten thousand."""


class Number(NamedTuple):
    """A number without quotes: what stands in the file, and what YAML 1.1 makes of it.

    The two differ for ``010`` (8), ``12:30`` (750) and ``2024_01`` (202401), which are names where a key takes text.
    """

    text: str
    value: int | float


class _PlainLoader(yaml.SafeLoader):
    """Values as written. Aliases let a kilobyte stand for more than any memory holds, or for itself."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- as yaml declares it
        first: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor} is not followed: write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A key that stands twice is an error: YAML's readers take the last and lose the first one's values."""
        mapping = super().construct_mapping(node, deep)
        if isinstance(node, yaml.MappingNode) and len(mapping) < len(node.value):
            lines: dict[Any, list[int]] = {}
            for key, _ in node.value:
                lines.setdefault(self.construct_object(key, deep=True), []).append(key.start_mark.line + 1)
            name, places = next(item for item in lines.items() if len(item[1]) > 1)
            numbers = " and ".join(str(line) for line in places)
            raise yaml.constructor.ConstructorError(
                None, None, f"{_name(name)} stands on lines {numbers}: keep one of them, with all its values"
            )
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> Number:
        read = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        return Number(node.value, read(node))


for _kind in ("int", "float"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _PlainLoader.construct_number)


def read_tree(path: Path) -> dict:
    """The nested mapping in ``path`` on top of the one its ``_BASE_`` names, with plain values.

    Raises:
        ReIDError: there is no such file, or it is no plain YAML mapping.
    """
    return _plain(read_written(path))


def read_written(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """The same with each unquoted number as a :class:`Number`.

    Args:
        path: the file.
        seen: files that build on this one.
    """
    path = path.expanduser()
    tree = mappings_as_text(_nested(_read_file(path), path))
    here = path.resolve()
    if here in seen:
        raise ReIDError(f"{path}: {BASE_KEY} leads back to this file. Remove one of the links.")
    if len(seen) == BASES:
        raise ReIDError(f"{path}: more than {BASES} files that name each other as {BASE_KEY}. Merge some of them.")
    if BASE_KEY not in tree:
        return tree
    base = tree.pop(BASE_KEY)
    if not isinstance(base, str):
        found = base.text if isinstance(base, Number) else repr(base)
        raise ReIDError(f"{path}: {BASE_KEY} must be the name of one YAML file, found {found}.")
    return _merge(read_written(path.parent / Path(base).expanduser(), (*seen, here)), tree)


def _read_file(path: Path) -> dict:
    if path.name.endswith("\r"):
        raise ReIDError(f"{str(path)!r} ends in a carriage return. {WINDOWS_SCRIPT}")
    if path.suffix.lower() not in (".yml", ".yaml"):
        raise ReIDError(f"{path}: configurations are YAML files (.yml or .yaml), found {path.suffix or 'no'} suffix.")
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=3, cutoff=0.3)
        hint = f" Near it: {', '.join(near)}." if near else ""
        raise ReIDError(f"{path}: no such configuration file.{hint}")
    text = read_text(path, LARGEST_FILE)
    try:
        tree = yaml.load(text, _PlainLoader)
    except Exception as error:  # besides its own errors, PyYAML lets through what Python says of odd values
        hint = " YAML indents by spaces, not by tabs." if "'\\t'" in str(error) else ""
        raise ReIDError(f"{path}: not a readable YAML file: {error}{hint}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ReIDError(f"{path}: expected a mapping of keys such as MODEL and SOLVER, found {_kind_of(tree)}.")
    if _deeper(tree, DEPTH):
        raise ReIDError(f"{path}: more than {DEPTH} groups inside one another.")
    return tree


def _nested(tree: dict, path: Path, prefix: str = "") -> dict:
    """``tree`` with ``SOLVER.SEED: 1`` written as ``SOLVER: {SEED: 1}``, so that the forms can be merged."""
    nested: dict[str, Any] = {}
    for key, value in tree.items():
        first, _, rest = _name(key).partition(".")
        if first and rest and rest.count(".") < DEPTH:
            value = {rest: value}
        else:
            first = _name(key)
        if isinstance(value, dict):
            value = _nested(value, path, f"{prefix}{first}.")
        if first in nested:
            value = _joined(nested[first], value, path, f"{prefix}{first}")
        nested[first] = value
    return nested


def _joined(one: Any, other: Any, path: Path, name: str) -> Any:
    """Two values of one key in one file, which only groups of different keys may have."""
    groups = [{} if value is None else value for value in (one, other)]
    if not all(isinstance(group, dict) for group in groups):
        raise ReIDError(f"{path}: {name} has two values in this file. Keep one of them.")
    joined = dict(groups[0])
    for key, value in groups[1].items():
        joined[key] = _joined(joined[key], value, path, f"{name}.{key}") if key in joined else value
    return joined


def _deeper(node: dict, levels: int) -> bool:
    """Whether mappings nest more than ``levels`` deep."""
    return not levels or any(_deeper(value, levels - 1) for value in node.values() if isinstance(value, dict))


def _merge(base: dict, top: dict) -> dict:
    """``top`` over ``base``, node by node; an empty group in ``top`` changes nothing."""
    merged = dict(base)
    for key, value in top.items():
        if isinstance(base.get(key), dict) and (value is None or isinstance(value, dict)):
            merged[key] = _merge(base[key], value or {})
        else:
            merged[key] = value
    return merged


def _plain(value: Any) -> Any:
    if isinstance(value, Number):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _name(key: Any) -> str:
    return key.text if isinstance(key, Number) else str(key)


def _kind_of(value: Any) -> str:
    return type(value.value if isinstance(value, Number) else value).__name__

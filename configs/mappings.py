"""Keys whose value is a small mapping with names of the user's own, such as ``{session: 1, sample: 1-3}``.

A configuration keeps the text of such a mapping: a YAML file over a base replaces it as a whole, the command line takes
it in quotes, and ``config.yml`` shows it as it was written.
"""

from __future__ import annotations

from typing import Any

import yaml

KEYS = frozenset({"DATASETS.KEEP", "DATASETS.TRAIN", "DATASETS.ENROL", "DATASETS.PROBE"})


class _Plain(yaml.SafeDumper):
    """Text without quotes where none are needed: every value is text here."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 -- as yaml declares it


def mappings_as_text(tree: dict, prefix: str = "") -> dict:
    """``tree`` of a YAML file with the values of :data:`KEYS` as one line of YAML each; numbers stay as written."""
    read = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in KEYS and isinstance(value, (dict, list)):
            style = {"default_flow_style": True, "sort_keys": False, "width": float("inf"), "allow_unicode": True}
            value = yaml.dump(_as_written(value), Dumper=_Plain, **style).strip()
        read[key] = mappings_as_text(value, f"{name}.") if isinstance(value, dict) else value
    return read


def _as_written(value: Any) -> Any:
    if isinstance(value, dict):
        return {_as_written(key): _as_written(part) for key, part in value.items()}
    return [_as_written(part) for part in value] if isinstance(value, list) else getattr(value, "text", value)

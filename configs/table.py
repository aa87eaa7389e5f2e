"""Print docs/config.md, the table of all keys, made from configs/defaults.py."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from configs.defaults import _C
from utils.console.arguments import make_parser

_LINE = re.compile(r"\s*(?:_C\.([\w.]+)|stage\.(\w+)) = .+?  # (.+)")

_HEADER = """# Configuration keys

Made from `configs/defaults.py` by `python -m configs.table`. Keys marked *(ours)* are not in the published code; the
others keep their published names and meaning. A YAML file names what it changes, `_BASE_: other.yml` starts from
another file, and `KEY VALUE` on the command line overrides both.

| key | default | meaning |
|---|---|---|
"""


def make_table() -> str:
    """The whole page."""
    rows = []
    for line in Path(__file__).with_name("defaults.py").read_text(encoding="utf-8").splitlines():
        found = _LINE.match(line)
        if found:
            key, stage_key, meaning = found.groups()
            names = [key] if key else [f"SOLVER.STAGE{number}.{stage_key}" for number in (0, 1, 2)]
            rows.append(f"| {'<br>'.join(f'`{n}`' for n in names)} | {_defaults(names)} | {_cell(meaning)} |")
    return _HEADER + "\n".join(rows) + "\n"


def _defaults(names: list[str]) -> str:
    values = dict.fromkeys(f"`{_value(name)!r}`" for name in names)
    return "<br>".join(values)


def _value(name: str) -> object:
    node: CfgNode = _C
    for part in name.split("."):
        node = node[part]
    return node


def _cell(text: str) -> str:
    return text.replace("(ours)", "*(ours)*").replace("|", "\\|")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_parser("python -m configs.table", __doc__, ("python -m configs.table > docs/config.md",)).parse_args(argv)
    sys.stdout.write(make_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Parsers of the commands: what the command does, examples to copy, options in groups."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Mapping, Sequence

WIDTH = 80
"""Columns of a terminal: longer lines of a help are broken."""


def make_parser(command: str, description: str, examples: Sequence[str] = ()) -> argparse.ArgumentParser:
    """A parser without arguments.

    Args:
        command: as it is typed, ``python -m processor.search``.
        description: a docstring, whose first line says what the command does.
        examples: command lines in full; none where the description holds them.
    """
    return argparse.ArgumentParser(
        prog=command,
        description="\n\n".join(_filled(part) for part in description.strip().split("\n\n")),
        epilog="\n".join(["examples:", *map(_continued, examples)]) if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse_arguments(
    command: str,
    description: str,
    examples: Sequence[str],
    keys: Mapping[str, Mapping[str, str]],
    argv: Sequence[str] | None,
) -> argparse.Namespace:
    """Arguments ``--config_file FILE [KEY VALUE ...]`` as ``config_file`` and ``opts``.

    Args:
        keys: groups of keys of the configuration and what they set, for the help.
    """
    parser = make_parser(command, description, examples)
    parser.epilog = f"{_key_list(keys)}\n\n{parser.epilog}"
    parser.add_argument(
        "--config_file", metavar="FILE", required=True, help="YAML file, for example configs/hand/demo.yml"
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="configuration keys that override the file, for example OUTPUT_DIR output/mine SOLVER.SEED 1",
    )
    return parser.parse_args(argv)


def _key_list(keys: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["keys that are set most (docs/config.md lists all):"]
    for group, meanings in keys.items():
        lines.append(f"  {group}:")
        for key, meaning in meanings.items():
            lines += textwrap.wrap(f"    {key:<28} {meaning}", WIDTH, subsequent_indent=33 * " ")
    return "\n".join(lines)


def _filled(paragraph: str) -> str:
    """Text as one paragraph; of indented commands each on its own line."""
    if not paragraph.startswith(" "):
        return textwrap.fill(" ".join(paragraph.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
    commands = re.sub(r"\\\n\s*", "", paragraph).splitlines()
    return "\n".join(_continued(command.strip()) for command in commands)


def _continued(example: str) -> str:
    """On several lines, as a shell reads it."""
    whole = re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: quoted[0].replace(" ", "\0"), example)
    lines = textwrap.wrap(whole, WIDTH - len("      \\ "), break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(" \\\n    ".join(lines), "  ").replace("\0", " ")

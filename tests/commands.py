"""The project's commands: what is typed, the module behind it, and whether its parser accepts a line."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train_clipreid.py", "test_clipreid.py")
FOLDERS = ("configs", "datasets", "model", "processor", "tests/benchmarks")


class Parsed(Exception):
    """Raised in place of the command's work, with the parsed arguments."""


def commands():
    """As typed, and the module that has ``main``: every script and every module that Python can run with ``-m``."""
    found = {f"python {script}": script.removesuffix(".py") for script in SCRIPTS}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[f"python -m {name.removesuffix('.__main__')}"] = name
    return found


def command_of(words):
    """Name of the command that these words start, or None, and the words that follow."""
    known = commands()
    for length in (3, 2):
        if " ".join(words[:length]) in known:
            return " ".join(words[:length]), words[length:]
    return None, words


def split_line(line):
    """Words of one shell command without redirections and comments."""
    words = shlex.split(line, comments=True)
    return words[: words.index(">")] if ">" in words else words


def lines_of(text):
    """Command lines in a text; backslashes at the end continue them."""
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]


def parse(monkeypatch, command, words):
    """Let the command's own parser read ``words``; a word that it refuses fails the test."""

    def parsing(own):
        def method(self, args=None, namespace=None):
            if isinstance(namespace, argparse.Namespace):
                return own(self, args, namespace)  # a call within the parser
            raise Parsed(own(self, args, namespace))

        return method

    main = importlib.import_module(commands()[command]).main
    with monkeypatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, parsing(getattr(argparse.ArgumentParser, name)))
        try:
            main(list(words))
        except Parsed as done:
            return done.args[0]
        except SystemExit as refused:
            raise AssertionError(f"{command} refuses {' '.join(words)}") from refused
    raise AssertionError(f"{command} parsed nothing")

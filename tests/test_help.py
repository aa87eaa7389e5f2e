"""``--help`` of every command: a line of what it does, and examples that its parser accepts."""

import importlib

import pytest

from configs import get_defaults
from configs.main_keys import TEST_KEYS, TRAINING_KEYS
from processor.runs.folder import flatten
from tests.commands import command_of, commands, lines_of, parse, split_line
from utils.console.arguments import make_parser

COMMANDS = commands()


def help_of(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(COMMANDS[command]).main(["--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_all_commands_are_found():
    assert {"python -m datasets.inspect", "python -m configs.table", "python -m tests.benchmarks.text"} < set(COMMANDS)
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys, monkeypatch):
    usage, purpose, *rest = help_of(command, capsys, monkeypatch).split("\n\n", 2)
    assert usage.startswith(f"usage: {command} ")
    sentence = " ".join(purpose.split())
    assert 30 < len(sentence) <= 120 and sentence[0].isupper() and sentence[-1] in ".:"
    assert not [line for line in rest[0].splitlines() if len(line) > 80]
    examples = [line for line in lines_of(rest[0]) if line.startswith("python ")]
    own = 0
    for line in examples:
        known, words = command_of(split_line(line))
        assert known, line
        parse(monkeypatch, known, words)
        own += known == command
    assert own


def test_an_example_is_continued_as_a_shell_reads_it():
    example = "python -m x " + " ".join(f"--option{n} 'value {n}'" for n in range(12))
    text = make_parser("python -m x", "Do x.", (example,)).format_help()
    assert max(map(len, text.splitlines())) <= 80
    assert not [line for line in text.splitlines() if line.count("'") % 2]
    assert split_line(lines_of(text.partition("examples:")[2])[0]) == split_line(example)


def test_keys_of_the_help_exist():
    known = flatten(get_defaults())
    for groups in (TRAINING_KEYS, TEST_KEYS):
        assert not [key for group in groups.values() for key in group if key not in known]

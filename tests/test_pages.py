"""What the pages of the documentation show can be run: commands, and the worked example."""

import importlib
import inspect
import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from configs import get_defaults
from configs.defaults import _C
from datasets import DATASETS
from model import METHODS
from processor.runs.folder import flatten
from tests.commands import ROOT, command_of, commands, lines_of, parse, split_line
from tests.toy_hands import toy_hand

KEYS = flatten(get_defaults())
EXTENDING = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(mine/[\w.]+)`:\n\n```\w+\n(.*?)^```", EXTENDING, re.MULTILINE | re.DOTALL))


def make_scans(folder):
    """Two scans in each of two sessions of six people."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for person in range(6):
        for session in (1, 2):
            for number in (1, 2):
                toy_hand(person / 6, rng, 0.1).save(folder / f"{person:03d}_{session}_{number:02d}.png")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with the files of the page, as the working directory; what they register is removed again."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    make_scans(tmp_path / "data/scans")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    METHODS.pop("halves", None)
    DATASETS.pop("sessions", None)
    _C.MODEL.pop("HALVES", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def run(line, monkeypatch, capsys):
    """Output of a command ``python -m MODULE WORDS``, in this process."""
    _, _, module, *words = line.split()
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out + printed.err


def test_the_worked_example_runs_as_it_stands(clone, monkeypatch, capsys):
    assert set(FILES) == {"mine/sessions.py", "mine/halves.py", "mine/run.py", "mine/halves.yml"}
    lines = [line for line in EXTENDING.splitlines() if line.startswith("python -m mine.run ")]
    trained, tested = (run(line, monkeypatch, capsys) for line in lines)
    assert re.search(r"agree [\d.]+", trained) and "Rank-1" in tested
    results = json.loads((clone / "output/mine/metrics.json").read_text())["results"]
    assert results["trained"]["mAP"] == pytest.approx(results["test"]["mAP"])


def test_its_loss_is_the_formula_of_the_page():
    space = {}
    exec(FILES["mine/halves.py"], space)
    scores = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p, q = scores.softmax(2)
    slow = sum(
        float(p[b, c] * (p[b, c] / q[b, c]).log() + q[b, c] * (q[b, c] / p[b, c]).log())
        for b in range(5)
        for c in range(7)
    )
    assert float(space["divergence"](*scores)) == pytest.approx(slow / 5)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = re.compile(r"(?:^Needs (?P<needs>[^\n]+):\n\n)?```bash\n(?P<lines>.*?)^```", re.MULTILINE | re.DOTALL)
RUN_BY = {
    "python train_clipreid.py": "test_scripts.py::test_training_ends_with_a_table",
    "python test_clipreid.py": "test_scripts.py::test_testing_gives_the_trained_numbers_without_training_images",
    "python -m configs.table": "configs/test_table.py::test_the_command_prints_the_page",
    "python -m datasets.inspect": "datasets/inspect/test_command.py::test_from_a_configuration",
    "python -m datasets.synthetic_hand.textures": (
        "datasets/synthetic_hand/test_textures.py::test_each_training_image_gets_the_texture_of_its_hand"
    ),
    "python -m datasets.keypoints": "datasets/test_keypoints.py::test_hands_are_written_counted_and_shown",
    "python -m model.convert": "model/backbones/test_timm_backbone.py::test_names_in_the_same_order_are_converted",
    "python -m model.export": "model/test_export.py::test_command_writes_the_file",
    "python -m processor.compare": "processor/test_compare.py::test_a_run_that_breaks_leaves_the_others",
    "python -m processor.extract": "processor/test_embedder.py::test_extract_command",
    "python -m processor.html_report": "processor/test_html_report.py::test_a_comparison",
    "python -m processor.points": "processor/test_points.py::test_a_chart_of_two_images",
    "python -m processor.search": "processor/test_embedder.py::test_search_command",
    "python -m mine.run": "test_pages.py::test_the_worked_example_runs_as_it_stands",
    "python -c": "test_pages.py::test_python_lines_of_the_pages",
}
"""A test that runs the command. Its lines on the pages are parsed here, their keys and recipes exist."""

SET_UP = {
    "python -m venv": "-m venv",
    "python -m pytest": "python -m pytest\n",
    "pip install -r": "pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt",
    ". venv/bin/activate": "export PATH",
}
"""How ``.ci/run`` does the same."""

PLACEHOLDERS = {"configs/hand/mine.yml"}


def blocks():
    """Page, what the block needs or None, and its lines."""
    for page in PAGES:
        for found in NEEDS.finditer(page.read_text(encoding="utf-8")):
            yield page.name, found["needs"], found["lines"]


def check_line(line, monkeypatch):
    """The parser accepts the line, its keys exist, its recipes are there. Returns the command."""
    words = split_line(line)
    if words[:1] == ["torchrun"]:
        words = ["python", *words[next(n for n, word in enumerate(words) if word.endswith(".py")) :]]
    if words[:2] == ["python", "-c"]:
        compile(words[2], line, "exec")
        return "python -c"
    command, rest = command_of(words)
    if command is None:
        return " ".join(words[:3])
    given = parse(monkeypatch, command, rest)
    if command != "python -m tests.benchmarks.evaluation":
        keys = [word for word in rest if re.fullmatch(r"[A-Z]+\.[A-Z0-9_.]+", word)]
        assert not [key for key in keys if key not in KEYS], line
    named = [word for word in rest if word.startswith("configs/") and "*" not in word and "{" not in word]
    assert not [word for word in named if word not in PLACEHOLDERS and not (ROOT / word).is_file()], line
    return command if given else ""


@pytest.mark.parametrize("block", list(blocks()), ids=lambda block: block[0])
def test_commands_of_the_pages(block, monkeypatch):
    page, needs, text = block
    for line in lines_of(text):
        for part in re.split(r" && ", line):
            if "FILE" in part or "$" in part:
                assert needs, f"{page}: {part}"
                continue
            command = check_line(part, monkeypatch)
            assert needs or command in RUN_BY or command in SET_UP, f"{page}: no test runs {part}; say what it needs"


def named_by(test):
    """Objects and strings that a test names, itself or through functions and fixtures of its module."""
    found, todo, seen = [], [test.__code__], set()
    while todo:
        code = todo.pop()
        for constant in code.co_consts:
            (todo if inspect.iscode(constant) else found).append(constant)
        for name in {*code.co_names, *code.co_varnames} - seen:
            seen.add(name)
            value = inspect.unwrap(test.__globals__.get(name))
            own = inspect.isfunction(value) and value.__module__ == test.__module__
            todo += [value.__code__] if own else []
            found += [name, value]
    return found


@pytest.mark.parametrize("command", RUN_BY)
def test_the_named_test_runs_the_command(command):
    file, _, name = RUN_BY[command].partition("::")
    test = getattr(importlib.import_module("tests." + file.removesuffix(".py").replace("/", ".")), name)
    assert name.startswith("test_")
    program = re.sub(r"^python (?:-m )?(?=\w)", "", command)
    found = named_by(test)
    known = commands().get(command)
    module = known and importlib.import_module(known)
    assert any(isinstance(thing, str) and program in thing for thing in found) or (
        known and any(thing is module or thing is module.main for thing in found)
    )


def test_a_test_that_runs_something_else_is_noticed():
    assert not [thing for thing in named_by(test_its_loss_is_the_formula_of_the_page) if "mine.run" in str(thing)]


@pytest.mark.parametrize("command", SET_UP)
def test_the_set_up_is_that_of_the_checks(command):
    assert SET_UP[command] in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_python_lines_of_the_pages(tmp_path, monkeypatch):
    """They make the pictures of the pages from a run's."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "output/hand/demo/ranking.png"
    source.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(source)
    (tmp_path / "docs").mkdir()
    lines = [line for _, _, text in blocks() for line in lines_of(text) if line.startswith("python -c ")]
    for line in lines:
        exec(split_line(line)[2], {})
    assert lines and list((tmp_path / "docs").iterdir())

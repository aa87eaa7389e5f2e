"""What the pages of the documentation show can be run: commands, and the worked example."""

import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch

from configs import get_defaults
from configs.defaults import _C
from datasets import DATASETS
from model import METHODS
from processor.runs.folder import flatten
from tests.commands import ROOT, command_of, lines_of, parse, split_line
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
    lines = re.findall(r"^python -m mine\.run .*$", EXTENDING, re.MULTILINE)
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
    "python train_clipreid.py": "test_scripts.py",
    "python test_clipreid.py": "test_scripts.py",
    "python -m configs.table": "configs/test_table.py",
    "python -m datasets.inspect": "datasets/inspect/test_report.py",
    "python -m datasets.keypoints": "datasets/test_keypoints.py",
    "python -m model.convert": "model/backbones/test_timm_backbone.py",
    "python -m model.export": "model/test_export.py",
    "python -m processor.compare": "processor/test_compare.py",
    "python -m processor.extract": "processor/test_embedder.py",
    "python -m processor.html_report": "processor/test_html_report.py",
    "python -m processor.points": "processor/test_points.py",
    "python -m processor.search": "processor/test_embedder.py",
    "python -m mine.run": "test_pages.py",
    "python -c": "test_pages.py",
    "python -m venv": "../.ci/run",
    "python -m pytest": "../.ci/run",
    "pip install -r": "../.ci/run",
    ". venv/bin/activate": "../.ci/run",
}
"""The test that runs a command; its lines on the pages are parsed here, and the files of the repository that they name
exist."""

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


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block[0])
def test_commands_of_the_pages(block, monkeypatch):
    page, needs, text = block
    for line in lines_of(text):
        for part in re.split(r" && ", line):
            if "FILE" in part or "$" in part:
                assert needs, f"{page}: {part}"
                continue
            command = check_line(part, monkeypatch)
            assert needs or command in RUN_BY, f"{page}: no test runs {part}; say what it needs"


def test_the_named_tests_exist():
    assert not [test for test in RUN_BY.values() if not (ROOT / "tests" / test).is_file()]

"""The example in docs/using.md gives the output of the page."""

import re
import shutil
from pathlib import Path

import torch

from configs import load_config
from model import DataFacts, make_model
from tests.toy_hands import make_toy_hands, write_config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "using.md"


def test_the_notebook_example_runs(tmp_path, monkeypatch, capsys):
    """In place of the demo's run: a small model of random weights under the same names."""
    run = tmp_path / "output" / "hand" / "demo"
    run.mkdir(parents=True)
    hands = make_toy_hands(tmp_path / "data" / "synthetic_hand" / "drawn")
    shutil.move(write_config(hands, tmp_path / "run"), run / "config.yml")
    cfg, _ = load_config(run / "config.yml")
    torch.save(
        make_model(cfg, DataFacts(6, 1, 1, sentence="A photo of a {} hand.")).checkpoint(), run / "RN-Small_16.pth"
    )
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    assert re.fullmatch(r"8 images, 96 numbers each; nearest neighbour right: \d+%\n", capsys.readouterr().out)

"""A whole run with people whose names are formulas, markup, control characters or no text at all."""

import os

import pytest

import train_clipreid
from tests.toy_hands import make_toy_hands, write_config

NAMES = [
    "$\\frac$",
    "<script>alert(1)<b>",
    "a\nb\x1b[2J",
    os.fsdecode(b"\xff\xfe"),
    "a\u202eb\u0301\U0001f590",
    "%s %d",
    "n" * 200,
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_any_kind(tmp_path, capsys):
    hands = make_toy_hands(tmp_path / "hands", train_ids=7, test_ids=7)
    for folder in ("train", "test/query", "test/gallery"):
        for place, name in zip(sorted((hands / folder).iterdir()), NAMES, strict=True):
            place.rename(place.with_name(name))
    file = write_config(hands, tmp_path / "run", pictures=True)
    assert train_clipreid.main(["--config_file", str(file), "SOLVER.STAGES", "[1]"]) == 0
    said = "".join(capsys.readouterr())
    assert "left out: " not in said and "\x1b" not in said and "\u202e" not in said
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 9
    assert "<script>alert" not in (tmp_path / "run" / "report.html").read_text()

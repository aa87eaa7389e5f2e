"""The page of all keys is up to date and complete."""

from pathlib import Path

from configs import get_defaults
from configs.table import main, make_table

ROOT = Path(__file__).parents[2]


def leaves(node, prefix=""):
    for key, value in node.items():
        yield from leaves(value, f"{prefix}{key}.") if hasattr(value, "clone") else [f"{prefix}{key}"]


def test_page_is_up_to_date():
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == make_table(), (
        "run: python -m configs.table > docs/config.md"
    )


def test_the_command_prints_the_page(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == make_table()


def test_every_key_has_a_row():
    page = make_table()
    assert [key for key in leaves(get_defaults()) if f"`{key}`" not in page] == []

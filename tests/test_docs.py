"""The pages of the documentation: links lead somewhere, figures are what their script draws, README stays short."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROW = re.compile(
    r"^\| \[`(\w+)`\]\(docs/methods\.md#(\w+)\) .*\]\((configs/[\w/.]+)\) \| [^|]* \| ([^|]*) \|$", re.MULTILINE
)
"""Of README's table of methods: name, section, recipe, what was checked."""


def anchors(page):
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in (link for link in links if "://" not in link):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[2:] if page.name != "index.md" and f"({page.name})" not in index]


def test_the_table_of_readme_has_every_method_with_a_recipe_of_it():
    from configs import load_config
    from model.methods.registry import METHODS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {name: (anchor, recipe) for name, anchor, recipe, _ in ROW.findall(readme)}
    assert rows.keys() == METHODS.keys()
    for name, (anchor, recipe) in rows.items():
        assert (anchor, load_config(ROOT / recipe)[0].MODEL.METHOD) == (name, name)
    assert readme.count("\n") <= 130


def test_what_readme_calls_golden_has_golden_numbers():
    """In tests/parity, those of the project's first methods apart; an own definition is called a reconstruction."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    golden = {name for name, _, _, checked in ROW.findall(readme) if "golden" in checked}
    kits = {path.parent.name for path in (ROOT / "tests/parity/methods").glob("*/index.json")}
    assert golden == kits - {"aaformer", "vit_base"} | {"clipreid", "baseline"}
    table = (ROOT / "docs/methods.md").read_text(encoding="utf-8").partition("## Golden numbers")[2]
    assert not [name for name in kits - {"vit_base"} if f"`{name}`" not in table.partition("\n## ")[0]]


def test_the_figure_is_what_the_script_draws():
    drawn = runpy.run_path(str(ROOT / "docs/draw_pipeline.py"))["pipeline"]()
    assert (ROOT / "docs/pipeline.svg").read_text(encoding="utf-8") == drawn

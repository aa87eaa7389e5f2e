"""The order of the folders: imports run downwards and in no circle, and no folder is a drawer."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [("utils",), ("configs", "loss"), ("datasets", "model"), ("solver", "processor")]
"""From the ground up; a folder imports from its own floor's folder and from lower floors."""

CATALOGUES = {"model/methods"}
"""Folders of peers behind one registry, a file each."""

MOST = 16
"""Files of any other folder."""

FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in FLOOR
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported(name):
    """Modules of the project that a module imports anywhere, imports for types alone included."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {module for module in found if module in FILES} - {name}


def test_no_two_files_import_each_other():
    """A file of a package is not counted as importing the package, which may list it: datasets, configs."""
    graph = {name: {m for m in imported(name) if not name.startswith(f"{m}.")} for name in FILES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)


@pytest.mark.parametrize("name", FILES)
def test_imports_run_downwards(name):
    folder = name.partition(".")[0]
    for module in imported(name):
        other = module.partition(".")[0]
        assert other == folder or FLOOR[other] < FLOOR[folder], module


def test_a_folder_is_no_drawer():
    folders = {path.parent for path in FILES.values()}
    files = {str(f.relative_to(ROOT)): len([p for p in f.glob("*.py") if p.name != "__init__.py"]) for f in folders}
    assert not {folder: count for folder, count in files.items() if count > MOST and folder not in CATALOGUES}

"""The notebook runs from its first cell to its last, and what the repository keeps of its outputs is small."""

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install -r requirements-dev.txt")
nbclient = pytest.importorskip("nbclient", reason="pip install -r requirements-dev.txt")

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_QUICK", "1")
    monkeypatch.setenv("TUTORIAL_FOLDER", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    results = json.loads((tmp_path / "mine_test/metrics.json").read_text(encoding="utf-8"))["results"]
    assert 0 < results["test"]["mAP"] <= 100


def test_outputs_are_kept_and_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [out for cell in code for out in cell.outputs if "image/jpeg" in out.get("data", {})]
    assert NOTEBOOK.stat().st_size < 600_000 and len(pictures) == 3
    assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]
    assert all(cell.execution_count for cell in code)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert str(NOTEBOOK.parents[1]) not in text and "/tmp/" not in text and "site-packages" not in text

"""Packages that are missing, and packages that are installed but broken."""

import sys

import numpy as np
import pytest
import timm  # noqa: F401 -- requires safetensors itself
import torch

from model.clip.hub import hub_file
from model.clip.weights import read_state_dict
from model.export import main as export
from processor.embedder import load_embedder
from processor.reports.curves import Curves
from processor.runs.run import Run
from tests.toy_hands import write_config
from utils.compute.device import choose_device, choose_precision
from utils.errors import ReIDError
from utils.optional import MissingPackageError, import_optional
from utils.plots.projection import embed_in_plane
from utils.retrieval.points import require_opencv
from utils.retrieval.search import require_faiss

NAMES = ("tensorboard", "umap", "faiss", "onnxruntime", "safetensors", "onnx", "cv2", "huggingface_hub")
REASONS = {
    "raise TypeError('Descriptors cannot be created directly.\\nA long story')": "TypeError: Descriptors cannot",
    "raise AttributeError('_ARRAY_API not found')": "AttributeError: _ARRAY_API not found",
    "import package_of_nobody": "package_of_nobody",
    "raise ImportError('libfoo.so.1: cannot open')": "ImportError: libfoo.so.1",
}


@pytest.fixture(params=REASONS)
def broken(request, tmp_path, monkeypatch):
    """All optional packages, installed but broken; the reason that messages give."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"{request.param}\n")
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    for module in [m for m in sys.modules if m.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(folder))
    return REASONS[request.param]


def test_messages_name_the_error(broken, tmp_path):
    for name in NAMES:
        with pytest.raises(MissingPackageError) as caught:
            import_optional(name)
        assert broken in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ReIDError, match="FAISS") as caught:
        require_faiss()
    assert broken in str(caught.value)
    with pytest.raises(ReIDError, match="OpenCV") as caught:
        require_opencv("TEST.POINTS")
    assert broken in str(caught.value)
    with pytest.raises(ReIDError, match="pip install huggingface_hub") as caught:
        hub_file("hf://openai/clip-vit-base-patch16")
    assert broken in str(caught.value)
    (tmp_path / "a.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ReIDError, match="needs the package safetensors") as caught:
        read_state_dict(tmp_path / "a.safetensors")
    assert broken in str(caught.value)
    with pytest.raises(ReIDError, match="needs the package onnxruntime") as caught:
        load_embedder(write_config(tmp_path, tmp_path / "run"), tmp_path / "a.onnx")
    assert broken in str(caught.value)


@pytest.mark.parametrize("suffix", ["onnx", "safetensors"])
def test_the_export_needs_its_packages_before_the_weights(broken, tmp_path, capsys, suffix):
    config = str(write_config(tmp_path, tmp_path / "run"))
    weights = ["TEST.WEIGHT", str(tmp_path / "none.pth")]
    assert export(["--config_file", config, "--output", str(tmp_path / f"a.{suffix}"), *weights]) == 2
    said = capsys.readouterr()
    assert broken in said.out + said.err and "the export needs the package" in said.out + said.err


def test_a_training_continues_without_them(broken, tmp_path, caplog):
    caplog.set_level("INFO", "clipreid")
    run = Run(choose_precision("fp32", choose_device("cpu")), tmp_path)
    assert Curves(run, 1, 1).board is None and broken in caplog.text
    points, how = embed_in_plane(torch.arange(60.0).reshape(20, 3))
    assert how.startswith("PCA") and np.isfinite(points).all()


def test_a_package_that_is_not_there():
    with pytest.raises(MissingPackageError, match="package_of_nobody is not installed"):
        import_optional("package_of_nobody.inside")

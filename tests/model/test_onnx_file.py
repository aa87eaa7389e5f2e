"""ONNX files: header, half-precision weights, weights beside the file; computed by onnxruntime."""

import numpy as np
import pytest
import torch
from torch import nn

from model import onnx_file
from model.onnx_file import write_onnx
from utils.errors import ReIDError

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")
X = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 6)).eval()


@pytest.fixture
def program(network):
    return torch.onnx.export(network, (X,), dynamo=True, verbose=False, opset_version=18)


def run(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return session.run(None, {name: X.numpy()})[0], session.get_modelmeta().custom_metadata_map


def test_facts_stand_in_the_header(program, network, tmp_path):
    assert write_onnx(program, tmp_path / "a.onnx", {"image_size": "[64, 32]", "method": "pcl"}) == [
        tmp_path / "a.onnx"
    ]
    found, facts = run(tmp_path / "a.onnx")
    assert facts == {"image_size": "[64, 32]", "method": "pcl"}
    np.testing.assert_allclose(found, network(X).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("beside", [False, True])
def test_half_precision_weights(program, network, tmp_path, monkeypatch, beside):
    """Computed in float32 with rounded weights; small tensors (biases) stay as they are."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                parameter.copy_(parameter.half().float())
    if beside:
        monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    write_onnx(program, tmp_path / "whole.onnx", {})
    files = write_onnx(program, tmp_path / "half.onnx", {}, half=True)
    found, _ = run(tmp_path / "half.onnx")
    np.testing.assert_allclose(found, network(X).detach().numpy(), atol=2e-6)
    size, whole = (sum(f.stat().st_size for f in tmp_path.glob(f"{stem}*")) for stem in ("half.onnx", "whole.onnx"))
    assert whole - size > 40 * 50 * 2 - 1000 and len(files) == 1 + beside


def test_weights_beyond_the_format_stand_beside_the_file(program, network, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    target = tmp_path / "new" / "large.onnx"
    target.parent.mkdir()
    (target.parent / "large.onnx.data").write_bytes(b"of an earlier export")
    assert write_onnx(program, target, {"a": "b"}) == [target, target.with_name("large.onnx.data")]
    assert sorted(file.name for file in target.parent.iterdir()) == ["large.onnx", "large.onnx.data"]
    moved = tmp_path / "elsewhere"
    target.parent.rename(moved)  # both together
    found, facts = run(moved / "large.onnx")
    np.testing.assert_allclose(found, network(X).detach().numpy(), atol=1e-6)
    assert facts == {"a": "b"} and (moved / "large.onnx.data").stat().st_size >= 40 * 50 * 4


def test_a_folder_that_cannot_be_written_to(program, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    for limit in (1000, onnx_file.LARGEST):
        monkeypatch.setattr(onnx_file, "LARGEST", limit)
        with pytest.raises(ReIDError, match=r"a.onnx: cannot be written"):
            write_onnx(program, tmp_path / "file" / "a.onnx", {})

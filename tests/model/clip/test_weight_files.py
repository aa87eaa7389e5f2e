"""Paths that are no file of weights: folders, shards, files of other programs."""

import json

import pytest
import torch
from safetensors.torch import save_file

from model.clip.clip import find_weights
from model.clip.weights import read_state_dict
from utils.errors import ReIDError

TENSORS = {"visual.conv1.weight": torch.ones(2, 3, 4, 4)}


def shards(folder, count=2):
    for number in range(1, count + 1):
        save_file(TENSORS, folder / f"model-{number:05}-of-{count:05}.safetensors")
    index = {"metadata": {"total_size": 9}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("read", [read_state_dict, lambda path: find_weights("ViT-B-16", path)])
def test_folders(tmp_path, read):
    with pytest.raises(ReIDError, match=r"this is a folder, and no file in it ends in \.safetensors"):
        read(tmp_path)
    shards(tmp_path)
    with pytest.raises(ReIDError, match=r"folder with weights in 2 shards, first model-00001-of-00002.*in one file"):
        read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ReIDError, match=r"this is a folder\. Name the file in it: \S+/model.safetensors"):
        read(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"x")
    with pytest.raises(ReIDError, match=r"torch.distributed.checkpoint.*dcp_to_torch"):
        read(tmp_path)


def test_one_shard_of_several(tmp_path):
    shards(tmp_path)
    with pytest.raises(ReIDError, match=r"00002-of-00002.safetensors: this is shard 2 of 2 of the weights"):
        read_state_dict(tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(ReIDError, match=r"index.json: .*the index of weights in several shards"):
        read_state_dict(tmp_path / "model.safetensors.index.json")
    shards(tmp_path, 1)
    assert list(read_state_dict(tmp_path / "model-00001-of-00001.safetensors")) == list(TENSORS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x08\x0e\x12\x07pytorch:\x03\x12\x01gB\x02\x10\x1c", "ONNX file.*TEST.WEIGHT is the .pth checkpoint"),
        (b"\x08\x0e:\x03\x12\x01gB\x02\x10\x1c", "ONNX file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5 file"),
        (b"\x93NUMPY\x01\x00v\x00", "a NumPy array"),
        (b"\x1f\x8b\x08\x00abc", "gzip archive: unpack it"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, content, message):
    (tmp_path / "w.onnx").write_bytes(content)
    with pytest.raises(ReIDError, match=f"w.onnx: this is not a file of weights.*{message}") as caught:
        read_state_dict(tmp_path / "w.onnx")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    "tensor", [torch.eye(3).to_sparse(), torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)]
)
def test_tensors_that_are_not_read_are_not_called_damaged(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(ReIDError, match=r"w.pth: the tensor a is not a dense.*Save it dense") as caught:
        read_state_dict(tmp_path / "w.pth")
    assert "damaged" not in str(caught.value)

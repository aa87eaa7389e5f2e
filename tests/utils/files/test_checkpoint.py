"""Files that appear whole or not at all."""

import json
import os

import pytest
import torch
from torch import nn

from datasets.caches.image_cache import ImageCache, Reader
from utils.console.folder_lock import folder_held
from utils.errors import ReIDError
from utils.files.checkpoint import load_model, new_array, save_json, save_model, write_atomically, write_text


def test_content_and_folder(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, lambda file: file.write(b"content"))
    assert path.read_bytes() == b"content" and [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "failure", [OSError("disk full"), RuntimeError("torch says"), ValueError("a bug"), KeyboardInterrupt()]
)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the new")
        raise failure

    known = isinstance(failure, OSError | RuntimeError)
    with pytest.raises(ReIDError if known else type(failure)) as caught:
        write_atomically(path, write)
    if known:
        assert str(path) in str(caught.value) and str(failure) in str(caught.value)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_nothing_is_there_before_it_is_whole(tmp_path):
    path = tmp_path / "file.bin"

    def write(file):
        file.write(b"half")
        assert not path.exists()

    write_atomically(path, write)
    assert path.read_bytes() == b"half"


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "model.pth", tmp_path / "file" / "deep" / "model.pth"):
        with pytest.raises(ReIDError, match=r"model.pth: cannot be written .*OUTPUT_DIR"):
            write_atomically(path, lambda file: file.write(b"x"))
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(ReIDError, match="taken: cannot be written"):
        write_atomically(tmp_path / "taken", lambda file: file.write(b"x"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_models_come_back_as_plain_tensors(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save_model(model.state_dict(), tmp_path / "m.pth")
    state = torch.load(tmp_path / "m.pth", weights_only=True)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_json_refuses_what_is_no_json(tmp_path):
    save_json({"a": [1, 0.5, "é"]}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": [1, 0.5, "é"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        save_json({"mAP": float("nan")}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": [1, 0.5, "é"]}


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_a_model_is_refused(tmp_path):
    os.mkfifo(tmp_path / "model.pth")
    with pytest.raises(ReIDError, match=r"model\.pth: cannot be read \(it is not a regular file\)"):
        load_model(nn.Linear(2, 2), tmp_path / "model.pth")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o077, 0o007, 0o022])
def test_files_are_as_open_as_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "a")
        save_json({}, tmp_path / "a.json")
        new_array(tmp_path / "a.npy", (2, 2))
        with folder_held(tmp_path, "held", "hint"):
            held = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        ImageCache(Reader((2, 2), "bilinear"), ["x"], 10**6, tmp_path / "cache")
    finally:
        os.umask(before)
    assert {*held, *(path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir())} == {0o666 & ~umask}

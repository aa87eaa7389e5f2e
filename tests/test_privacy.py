"""A run reveals no path of its data, shows people only on request, and opens no connection."""

import base64
import io
import re
import socket

import numpy as np
import pytest
from PIL import Image

from tests.model.weight_files import small_model, write
from tests.run_client import Runs
from tests.toy_hands import make_toy_hands


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder whose name must not appear anywhere: data, weights, a training and its tests, with sockets watched."""
    return tmp_path_factory.mktemp("jane_doe_ward_7")


@pytest.fixture(scope="module")
def runs(driver, base):
    weights = write("plain", small_model(size=(32, 32)), base / "clip.pt")
    start = {"MODEL__PRETRAIN_CHOICE": "imagenet", "MODEL__PRETRAIN_PATH": weights, "DATALOADER__NUM_WORKERS": 1}
    runs = Runs(driver, make_toy_hands(base / "data" / "hands"), base / "run", **start, CHECKPOINT_MINUTES=10)
    runs.heard = []
    for script, more in (
        ("train", {}),
        ("test", {"TEST__WEIGHT": runs.folder / "ViT-Tiny-16_3.pth"}),
        ("train", {"MODEL__PRETRAIN_CHOICE": "random", "MODEL__PRETRAIN_PATH": "", "OUTPUT_DIR": base / "random"}),
    ):
        done = runs(1, "overhear", "start", script, **more)
        assert done["status"] == 0, done["said"]
        runs.heard.append(done["event"])
    return runs


def test_nothing_leaves_the_machine(runs):
    """Trained from given and from random weights, and tested: no socket, no name resolution, no other program."""
    assert runs.heard == ["", "", ""]


def test_the_guard_detects_a_socket(runs):
    assert "socket.__new__" in runs(1, "overhear and speak", "start", OUTPUT_DIR=runs.folder.parent / "other")["event"]


def texts(path):
    """What can be read in a file, arrays and all."""
    if path.suffix != ".npz":
        return [path.read_bytes()]
    with np.load(path, allow_pickle=False) as file:
        return [str(file[name].tolist()).encode() for name in file]


def test_no_file_holds_the_path_of_the_data_or_the_user_name(runs, base):
    """The configuration has to run again, and states compare it: they keep the paths as they were given."""
    keep_paths = {"config.yml", "config_test.yml"}
    files = [path for path in runs.folder.rglob("*") if path.is_file() and path.name not in keep_paths]
    files = [path for path in files if path.parent.name != "resume"]
    assert {"train_log.txt", "metrics.json", "report.html", "queries.npz", "verification.npz", "run.lock"} <= {
        path.name for path in files
    }
    secrets = {base.name, str(base.parent), *([socket.gethostname()] if len(socket.gethostname()) > 4 else [])}
    for path in files:
        for text in texts(path):
            assert not [secret for secret in secrets if secret.encode() in text], path.name
    assert f"ROOT_DIR: {base / 'data' / 'hands'}" in (runs.folder / "config.yml").read_text()


def test_paths_are_below_what_they_belong_to(runs):
    with np.load(runs.folder / "queries.npz") as file:
        assert file["path"][0] == "test/query/person02/photo0.png"
    log = (runs.folder / "train_log.txt").read_text()
    assert "results in .../run" in log and "TEST.WEIGHT .../run/ViT-Tiny-16_3.pth" in log


def test_without_pictures_no_file_holds_a_photograph(runs):
    """The only pictures are charts, in the folder and in the pages; no array is one either."""
    charts = {"curves.png", "det.png"}
    drawn = [path.read_bytes() for path in runs.folder.rglob("*.png") if path.name in charts]
    for path in runs.folder.rglob("*"):
        if path.is_dir():
            continue
        try:
            with Image.open(path):
                assert path.name in charts
        except OSError:
            pass
        if path.suffix == ".npz":
            with np.load(path) as file:
                assert all(file[name].ndim == 1 for name in file), path
    assert not list(runs.folder.glob("pictures*")) and not list(runs.folder.glob("*.images"))
    for page in ("report.html", "report_test.html"):
        shown = re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", (runs.folder / page).read_text())
        assert shown and all(base64.b64decode(data) in drawn for data in shown)


def test_with_pictures_photographs_would_be_found(runs, base):
    """The same search finds the sheets of photographs when they are drawn."""
    done = runs(
        script="test", TEST__WEIGHT=runs.folder / "ViT-Tiny-16_3.pth", TEST__PICTURES=True, OUTPUT_DIR=base / "p"
    )
    assert done["status"] == 0, done["said"]
    text = (base / "p" / "report.html").read_text()
    sizes = [Image.open(io.BytesIO(base64.b64decode(d))).size for d in re.findall(r"base64,([A-Za-z0-9+/=]+)", text)]
    assert len(sizes) > 5 and (base / "p" / "ranking.png").exists()

"""The command that makes the small CLIP, on forty drawn pictures; the package's own files stay as they are."""

import hashlib
import json
import subprocess

import pytest
import torch

from model.clip import hands_clip as package
from model.clip.weights import read_state_dict
from processor import hands_clip
from tests.scripts import metrics_of, train, words
from utils.errors import ReIDError

SMALL = {
    "DATASETS.SYNTHETIC.TRAIN_IDS": 4,
    "DATASETS.SYNTHETIC.TEST_IDS": 6,
    "DATASETS.SYNTHETIC.IMAGES_PER_ID": 4,
    "SOLVER.STAGE0.IMS_PER_BATCH": 8,
    "SOLVER.STAGE0.MAX_EPOCHS": 1,
    "SOLVER.STAGE0.WARMUP_EPOCHS": 0,
    "TEST.PICTURES": False,
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The file and the card, away from the package."""
    for module in (package, hands_clip):
        for name in ("FILE", "CARD"):
            monkeypatch.setattr(module, name, tmp_path / "package" / getattr(package, name).name)
    return hands_clip.FILE, hands_clip.CARD


def test_training_test_file_and_card(files, tmp_path, monkeypatch):
    def run(folder, settings):
        train(hands_clip.ROOT / hands_clip.RECIPE, *settings, "OUTPUT_DIR", folder)

    monkeypatch.setattr(hands_clip, "_run", run)
    overrides = [*words(SMALL), "DATASETS.ROOT_DIR", str(tmp_path)]
    hands_clip.make(tmp_path / "made", overrides)
    file, card = files[0].read_bytes(), json.loads(files[1].read_text())
    assert card["sha256"] == hashlib.sha256(file).hexdigest() and card["epochs"] == 1
    assert card["data"].startswith("4 drawn hands, 16 pictures")
    assert set(card["changes to the recipe"]) == {key for key in SMALL if key.startswith(("DATASETS", "SOLVER"))}
    tested = metrics_of(tmp_path / "made" / "zeroshot")["results"]["zero-shot"]
    assert card["re-identification as it is"]["mAP"] == pytest.approx(tested["mAP"], abs=0.005)
    trained = read_state_dict(tmp_path / "made" / "training" / "RN-Small_clip.safetensors")
    for name, tensor in read_state_dict(files[0]).items():
        torch.testing.assert_close(tensor.float(), trained[name].float(), rtol=1e-3, atol=1e-4, msg=name)
    hands_clip.make(tmp_path / "made", overrides)
    assert files[0].read_bytes() == file


def test_a_failed_run_leaves_the_package_alone(files, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 2))
    with pytest.raises(ReIDError, match=r"training ended with status 2; .* Repeat the command"):
        hands_clip.make(tmp_path / "made", [])
    assert not files[0].exists()

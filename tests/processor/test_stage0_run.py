"""Stage 0 from the command's function to the files that it leaves."""

import json

import pytest
import torch

import train_clipreid
from configs import load_config
from datasets.preprocessing import test_transform as plain_transform
from model import DataFacts, make_model
from model.base import Batch
from model.clip.prompts import sentence_features
from model.clip.weights import read_clip_weights
from tests.toy_hands import make_toy_hands, write_config
from utils.images import read_image


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of stage 0 alone on hands whose sentences name the person, and those sentences by path."""
    root = tmp_path_factory.mktemp("stage0")
    hands = make_toy_hands(root / "hands")
    said = {path: f"a hand of {path.parent.name[:6]} {path.parent.name[6:]}" for path in sorted(hands.rglob("*.png"))}
    rows = "".join(f"{path.relative_to(hands).as_posix()},{sentence}\n" for path, sentence in said.items())
    (hands / "captions.csv").write_text(f"path,caption\n{rows}", encoding="utf-8")
    file = write_config(hands, root / "run", "RN-Tiny")
    stage = {"IMS_PER_BATCH": "8", "MAX_EPOCHS": "2", "BASE_LR": "0.001", "WARMUP_EPOCHS": "0"}
    settings = [word for key, value in stage.items() for word in (f"SOLVER.STAGE0.{key}", value)]
    train_clipreid.train(str(file), [*settings, "SOLVER.STAGES", "[0]", "INPUT.PROB", "0.0"])
    return file, root / "run", {path: sentence for path, sentence in said.items() if "train" in path.parts}


def test_recall_before_and_after_is_kept(whole):
    _, run, _ = whole
    results = json.loads((run / "metrics.json").read_text())["results"]
    for when in ("start", "stage 0"):
        for name in ("image to sentence", "sentence to image"):
            row = results[f"{name} ({when})"]
            assert 0 <= row["Rank-1"] <= row["Rank-5"] <= 100
    assert (run / "RN-Tiny_2.pth").is_file()


def test_lengths_in_the_written_file_multiply_to_its_logit_scale(whole):
    file, run, said = whole
    clip = run / "RN-Tiny_clip.safetensors"
    cfg, _ = load_config(file, ["MODEL.PRETRAIN_CHOICE", "imagenet", "MODEL.PRETRAIN_PATH", str(clip)])
    cfg.defrost()
    cfg.MODEL.METHOD, cfg.SOLVER.STAGES = "zeroshot", []
    model = make_model(cfg, DataFacts(1)).eval()
    read = plain_transform(cfg.INPUT.SIZE_TEST, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    with torch.no_grad():
        images = model(Batch(torch.stack([read(read_image(path)) for path in said])))["projected"]
        texts = sentence_features(model.text_encoder, model.words, 77, list(said.values()))
    product = images.norm(dim=1).mean() * texts.norm(dim=1).mean()
    assert float(product) == pytest.approx(float(read_clip_weights(clip)["logit_scale"].exp()), rel=1e-3)

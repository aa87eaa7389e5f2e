"""Whole runs of methods that read more of a training image than its pixels: augmentation (ISP), a texture (SAN)."""

import json
import shutil

import pytest
import torch

import test_clipreid
import train_clipreid
from configs import load_config
from model import export
from model.base import Progress
from processor import load_embedder
from tests.model.methods.toy import Images, build, config, stages, toy_batch
from tests.toy_hands import write_config
from utils.errors import ReIDError

SMALL = ["INPUT.SIZE_TRAIN", "[64, 64]", "INPUT.SIZE_TEST", "[64, 64]", "SOLVER.STAGES", "[2]"]
SMALL += ["SOLVER.STAGE2.MAX_EPOCHS", "2", "TEST.BOOTSTRAP", "0"]
VISIBLE = ["TEST.METRIC", "visible", "TEST.FEAT_NORM", "no", "TEST.VERIFICATION", "False"]


def test_isp_clusters_trains_and_is_tested_by_visible_parts(hands, tmp_path, monkeypatch):
    """Pseudo-labels stay out of the checkpoint, and what compares vectors refuses the distance of parts."""
    file = write_config(hands, tmp_path / "run", "hrnet-tiny")
    options = [*SMALL, "MODEL.METHOD", "isp", "MODEL.IF_WITH_CENTER", "yes"]
    assert train_clipreid.main(["--config_file", str(file), *options, *VISIBLE]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (weights,) = (tmp_path / "run").glob("*.pth")
    state = torch.load(weights, weights_only=True)
    assert not any(name.startswith(("pseudo_labels", "centers")) for name in state)
    test = ["--config_file", str(file), *options, *VISIBLE, "TEST.WEIGHT", str(weights), "OUTPUT_DIR"]
    assert test_clipreid.main([*test, str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["results"]["test"]
    assert again["mAP"] == pytest.approx(metrics["results"]["trained"]["mAP"])
    with pytest.raises(ReIDError, match="visible is a ratio"):
        load_embedder(str(file), weights, [*options, *VISIBLE])
    monkeypatch.setattr(export, "_require", lambda package: None)
    with pytest.raises(ReIDError, match="visible is a ratio"):
        export.export(str(file), [*options, *VISIBLE, "TEST.WEIGHT", str(weights)], tmp_path / "x.onnx")
    with pytest.raises(ReIDError, match=r"TEST.RE_RANKING with TEST.METRIC = visible"):
        load_config(file, [*options, *VISIBLE, "TEST.RE_RANKING", "True"])
    with pytest.raises(ReIDError, match=r"TEST.VERIFICATION = True with TEST.METRIC = visible"):
        load_config(file, [*options, *VISIBLE[:4]])


def test_isp_keeps_its_labels_between_clusterings():
    cfg = config("isp", "INPUT.SIZE_TRAIN", "[64, 64]", "INPUT.SIZE_TEST", "[64, 64]")
    method, batch = build(cfg), toy_batch(cfg)
    (stage,) = stages(cfg)
    kept = []
    for epoch in (1, 2, 1, 3, 103):
        method.eval().begin_epoch(Images(method, batch), Progress(stage.number, epoch))
        kept.append(method.pseudo_labels.clone())
        with torch.no_grad():
            method.cls_head[0].weight.add_(0.01 * torch.randn_like(method.cls_head[0].weight))
    first, second, again, third, late = kept
    assert first.max() <= method.parts and first.float().std() > 0
    assert torch.equal(first, second) and torch.equal(third, late) and not torch.equal(again, third)


def test_san_reads_textures_from_files(hands, tmp_path):
    file = write_config(hands, tmp_path / "run", "resnet-tiny")
    shutil.copytree(hands / "train", tmp_path / "textures" / "train")
    options = [*SMALL, "MODEL.METHOD", "san", "DATASETS.TEXTURES", str(tmp_path / "textures")]
    assert train_clipreid.main(["--config_file", str(file), *options]) == 0
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    assert len(history) == 2 and all({"id", "triplet", "texture", "maps"} <= entry.keys() for entry in history)
    assert "SAN, joint optimisation" in (tmp_path / "run" / "train_log.txt").read_text()
    next((tmp_path / "textures").rglob("*.png")).unlink()
    assert train_clipreid.main(["--config_file", str(file), *options, "OUTPUT_DIR", str(tmp_path / "other")]) == 2

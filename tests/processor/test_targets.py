"""One model on several data sets: each target has the numbers of a test on it alone."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import test_clipreid
import train_clipreid
from processor import processor_clipreid_stage2 as stage2
from processor.compare import main as compare
from tests.toy_hands import make_toy_hands, write_config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three sets of hands, a configuration for each, and the baseline trained on the first, tested on the others."""
    folder = tmp_path_factory.mktemp("targets")
    for seed, name in enumerate(("first", "second", "third")):
        file = write_config(make_toy_hands(folder / name, 4, 4, seed=seed), folder / f"run_{name}")
        file.rename(folder / f"{name}.yml")
    # Of a target's file the data set counts, and nothing else.
    text = (folder / "third.yml").read_text().replace("SIZE_TEST: [32, 32]", "SIZE_TEST: [64, 64]")
    (folder / "third.yml").write_text(text.replace("SIZE_TRAIN: [32, 32]", "SIZE_TRAIN: [64, 64]"))
    assert train_clipreid.main(["--config_file", str(folder / "first.yml"), *baseline(folder), *targets(folder)]) == 0
    return folder


def baseline(folder):
    keys = "MODEL.METHOD baseline SOLVER.STAGES [2] TEST.BOOTSTRAP 0"
    return [*keys.split(), "OUTPUT_DIR", str(folder / "out")]


def targets(folder, *names):
    return ["TEST.TARGETS", str([str(folder / f"{name}.yml") for name in names or ("second", "third")])]


def test_a_target_is_a_test_of_its_own(place, capsys):
    row = json.loads((place / "out" / "metrics.json").read_text())["results"]["trained"]
    assert list(row["targets"]["sets"]) == ["second", "third"]
    weight = ["TEST.WEIGHT", str(place / "out" / "ViT-Tiny-16_1.pth")]
    for name, found in row["targets"]["sets"].items():
        other = ["DATASETS.ROOT_DIR", str(place / name), "OUTPUT_DIR", str(place / f"alone_{name}")]
        given = ["--config_file", str(place / "first.yml"), *baseline(place), *weight, *other]
        assert test_clipreid.main(given) == 0
        alone = json.loads((place / f"alone_{name}" / "metrics.json").read_text())["results"]["test"]
        for key in ("mAP", "Rank-1", "Rank-5", "mINP", "EER", "CMC", "queries", "images"):
            assert found[key] == alone[key], (name, key)
    sets = row["targets"]["sets"].values()
    for measure, mean in row["targets"]["mean"].items():
        assert mean == pytest.approx(sum(found[measure] for found in sets) / 2)
    log = (place / "out" / "train_log.txt").read_text()
    assert "-> second" in log and str(place) not in log


def test_targets_see_the_best_epoch_of_held_out_images(place, tmp_path, monkeypatch):
    """Epoch 1 of 2 is the better one: a target is tested with it, and the target's own HOLD_OUT changes nothing."""
    photos = [path.relative_to(place / "first").as_posix() for path in sorted((place / "first").rglob("*.png"))]
    splits = {"train": "train", "test/query": "query", "test/gallery": "gallery"}
    rows = [(name, name.split("/")[-2], splits[name.rsplit("/", 2)[0]]) for name in photos]
    rows = [(name, who, "val" if split == "train" and "photo3" in name else split) for name, who, split in rows]
    listing = tmp_path / "listing.csv"
    listing.write_text("\n".join(",".join(row) for row in [("path", "identity", "split"), *rows]))
    held_out = tmp_path / "second.yml"
    held_out.write_text((place / "second.yml").read_text().replace("DATASETS: {", "DATASETS: {HOLD_OUT: True, "))
    scores, validated = iter([0.9, 0.3]), stage2.validate_model
    monkeypatch.setattr(stage2, "validate_model", lambda *a: replace(validated(*a), mAP=next(scores)))
    tested, evaluate = {}, train_clipreid.evaluate_targets

    def spy(targets, model, run):
        tested.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return evaluate(targets, model, run)

    monkeypatch.setattr(train_clipreid, "evaluate_targets", spy)
    keys = ["DATASETS.NAMES", "listing", "DATASETS.LISTING", str(listing), "SOLVER.STAGE2.EVAL_PERIOD", "1"]
    out = ["OUTPUT_DIR", str(tmp_path / "out"), "TEST.TARGETS", str([str(held_out)])]
    words = ["--config_file", str(place / "first.yml"), *baseline(place), *keys, *out]
    assert train_clipreid.main([*words, "SOLVER.STAGE2.MAX_EPOCHS", "2", "SOLVER.STAGE2.BASE_LR", "0.01"]) == 0
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert "targets" not in results["trained"] and list(results["best"]["targets"]["sets"]) == ["second"]
    best, last = (torch.load(tmp_path / "out" / f"ViT-Tiny-16_{name}.pth", weights_only=True) for name in ("best", "2"))
    assert all(torch.equal(tested[name], best[name]) for name in best)
    assert not all(torch.equal(best[name], last[name]) for name in last)


def test_a_test_alone_has_the_same_table(place, tmp_path):
    weight = ["TEST.WEIGHT", str(place / "out" / "ViT-Tiny-16_1.pth"), "OUTPUT_DIR", str(tmp_path)]
    given = ["--config_file", str(place / "first.yml"), *baseline(place), *weight, *targets(place)]
    assert test_clipreid.main(given) == 0
    tested, trained = (
        json.loads((folder / "metrics.json").read_text())["results"][name]["targets"]
        for folder, name in ((tmp_path, "test"), (place / "out", "trained"))
    )
    assert tested["mean"] == trained["mean"]


def test_two_processes_test_targets_like_one(place, tmp_path):
    given = ["--config_file", place / "first.yml", *baseline(place), *targets(place), "OUTPUT_DIR", tmp_path]
    words = [*given, "TEST.WEIGHT", place / "out" / "ViT-Tiny-16_1.pth"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*torchrun, "test_clipreid.py", *map(str, words)],
        cwd=Path(test_clipreid.__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    two, one = (
        json.loads((folder / "metrics.json").read_text())["results"][name]
        for folder, name in ((tmp_path, "test"), (place / "out", "trained"))
    )
    assert two["device"] == "2 x cpu, float32" and list(two["targets"]["sets"]) == ["second", "third"]
    for name, found in two["targets"]["sets"].items():
        for key in ("mAP", "Rank-1", "mINP", "EER", "CMC", "queries", "images"):
            assert found[key] == one["targets"]["sets"][name][key], (name, key)
    assert two["targets"]["mean"] == one["targets"]["mean"]


def test_a_comparison_shows_targets(place, tmp_path):
    keys = [*baseline(place)[:-2], *targets(place)]
    one, two = tmp_path / "one.yml", tmp_path / "two.yml"
    for file in (one, two):
        shutil.copy(place / "first.yml", file)
    given = ["--configs", str(one), str(two), "--output", str(tmp_path / "out")]
    shutil.copytree(place / "out", tmp_path / "out" / "one" / "seed1234")
    shutil.copytree(place / "out", tmp_path / "out" / "two" / "seed1234")
    assert compare([*given, "--seeds", "1234", *keys]) == 0  # both are finished
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| configuration | -> second | -> third | mean |" in text
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert rows[0]["targets"] == rows[1]["targets"] and list(rows[0]["targets"]) == ["second", "third", "mean"]
    header = (tmp_path / "out" / "comparison.csv").read_text().splitlines()[0]
    assert "mAP -> second" in header and "Rank-1 -> mean" in header


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: targets(f, "absent"), "absent.yml"),
        (lambda f: ["TEST.TARGETS", f"['{f}/second']"], "is not a YAML file"),
        (lambda f: targets(f, "second", "second"), "two files are named second"),
        (lambda f: targets(f, "lost"), "TEST.TARGETS, lost: "),
        (lambda f: targets(f, "unknown"), "TEST.TARGETS, unknown: DATASETS.NAMES = 'handz'"),
        (lambda f: [*targets(f), "MODEL.SIE_CAMERA", "True"], "TEST.TARGETS with MODEL.SIE_CAMERA"),
    ],
)
def test_what_cannot_be_tested_is_refused_before_training(change, message, place, tmp_path, capsys):
    text = (place / "second.yml").read_text()
    (place / "lost.yml").write_text(text.replace(str(place / "second"), str(place / "nowhere")))
    (place / "unknown.yml").write_text(text.replace("NAMES: hand,", "NAMES: handz,"))
    given = [*baseline(place)[:-2], "OUTPUT_DIR", str(tmp_path / "out"), *change(place)]
    assert train_clipreid.main(["--config_file", str(place / "first.yml"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.pth"))

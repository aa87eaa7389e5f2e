"""One model on several data sets: each target's numbers are those of a test of its own."""

import json
import shutil

import pytest
import torch

import test_clipreid
import train_clipreid
from processor.compare import main as compare
from tests.toy_hands import make_toy_hands, write_config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three sets of hands, a configuration for each, and the baseline trained on the first, tested on the others."""
    torch.set_num_threads(1)
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
    keys = "MODEL.METHOD baseline SOLVER.STAGES [2] TEST.BOOTSTRAP 0 TEST.PICTURES False"
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


def test_a_test_alone_has_the_same_table(place, tmp_path):
    weight = ["TEST.WEIGHT", str(place / "out" / "ViT-Tiny-16_1.pth"), "OUTPUT_DIR", str(tmp_path)]
    given = ["--config_file", str(place / "first.yml"), *baseline(place), *weight, *targets(place)]
    assert test_clipreid.main(given) == 0
    tested, trained = (
        json.loads((folder / "metrics.json").read_text())["results"][name]["targets"]
        for folder, name in ((tmp_path, "test"), (place / "out", "trained"))
    )
    assert tested["mean"] == trained["mean"]


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

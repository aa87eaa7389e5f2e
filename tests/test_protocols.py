"""Protocols of the hand papers through both scripts: ten runs, split files, validation, verification, other sets."""

import csv
import re
import shutil
import statistics

import numpy as np
import pytest
import torch

import test_clipreid
import train_clipreid
from configs import load_config
from datasets import make_dataset
from datasets.listing import Listing
from processor.testing import evaluation as evaluation_module
from tests.scripts import evaluate, log_of, metrics_of, train
from tests.toy_hands import make_toy_hands, toy_hand, write_config
from utils.console.logger import close_logger

PEOPLE = [*range(6), *range(1060, 1065)]
PROTOCOL = ["DATASETS.NAMES", "hand_11k", "TEST.METRIC", "cosine"]


@pytest.fixture(scope="module")
def hands_11k(tmp_path_factory):
    """6 people who train and 5 who test, 4 images of each in two aspects, laid out as 11k Hands."""
    root = tmp_path_factory.mktemp("11k")
    (root / "Hands").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for aspect in ("dorsal right", "palmar left"):
        for who, person in enumerate(PEOPLE):
            for _ in range(4):
                name = f"Hand_{len(rows):07d}.jpg"
                toy_hand(who / len(PEOPLE), rng, 0.3).save(root / "Hands" / name)
                rows.append((f"{person:07d}", 0, aspect, name))
    with (root / "HandInfo.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "accessories", "aspectOfHand", "imageName"), *rows])
    return root


@pytest.fixture(scope="module")
def trained(hands_11k, tmp_path_factory):
    """A run with a held-out image of each person, evaluated on three random splits."""
    base = tmp_path_factory.mktemp("trained")
    file = write_config(hands_11k, base / "run")
    options = ["DATASETS.HOLD_OUT", "True", "TEST.RUNS", "3", "SOLVER.STAGE2.EVAL_PERIOD", "1"]
    train(file, *PROTOCOL, *options, "SOLVER.STAGE2.MAX_EPOCHS", "3")
    return base, file


def test_mean_and_deviation_are_those_of_the_runs_one_by_one(trained, tmp_path, monkeypatch):
    base, file = trained
    weight = ["TEST.WEIGHT", base / "run" / "ViT-Tiny-16_3.pth"]
    seen = []
    extract = evaluation_module.extract_features
    monkeypatch.setattr(
        evaluation_module, "extract_features", lambda *a, **k: seen.append(len(a[1].dataset)) or extract(*a, **k)
    )
    evaluate(file, *PROTOCOL, *weight, "TEST.RUNS", "4", "OUTPUT_DIR", tmp_path / "all")
    # 5 people x 4 images of the aspect, and the other aspect's images that some gallery shows: once each
    assert len(seen) == 1 and 20 + 5 <= seen[0] <= 20 + 5 * 4
    together = metrics_of(tmp_path / "all")["results"]["test"]
    alone = []
    for i in range(4):
        evaluate(file, *PROTOCOL, *weight, "DATASETS.RUN", i, "OUTPUT_DIR", tmp_path / str(i))
        alone.append(metrics_of(tmp_path / str(i))["results"]["test"])
    assert [run["run"] for run in together["runs"]] == [0, 1, 2, 3]
    for name in ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP", "EER"):
        values = [run[name] for run in alone]
        assert [run[name] for run in together["runs"]] == pytest.approx(values, abs=1e-3)
        assert together[name] == pytest.approx(statistics.fmean(values), abs=1e-3)
        assert together["std"][name] == pytest.approx(statistics.stdev(values), abs=1e-3)
    assert len({run["mAP"] for run in alone}) > 1, "splits that do not differ test nothing"
    said = f"{together['mAP']:.1f} ± {together['std']['mAP']:.1f}"
    assert re.search(rf"test +{re.escape(said)} ", log_of(tmp_path / "all"))
    assert "over 4 random splits" in log_of(tmp_path / "all") and "±" not in log_of(tmp_path / "0")


def test_a_split_file_repeats_the_evaluation(trained, hands_11k, tmp_path):
    base, file = trained
    weight = ["TEST.WEIGHT", base / "run" / "ViT-Tiny-16_3.pth"]
    lists = sorted(path.name for path in (base / "run").glob("split_run*.csv"))
    assert lists == ["split_run0.csv", "split_run1.csv", "split_run2.csv"]
    listing = base / "run" / "split_run2.csv"
    assert str(hands_11k) not in listing.read_text()
    evaluate(file, *PROTOCOL, *weight, "DATASETS.RUN", "2", "OUTPUT_DIR", tmp_path / "run2")
    named = ["DATASETS.NAMES", "listing", "DATASETS.LISTING", listing, "DATASETS.ROOT_DIR", hands_11k]
    evaluate(file, *PROTOCOL, *named, *weight, "OUTPUT_DIR", tmp_path / "listed")
    first, second = (metrics_of(tmp_path / name)["results"]["test"] for name in ("run2", "listed"))
    assert (first["mAP"], first["CMC"], first["EER"]) == (second["mAP"], second["CMC"], second["EER"])
    assert not list((tmp_path / "listed").glob("split_run*.csv")), "a fixed split needs no file"


def test_joint_mode_and_its_split_file(hands_11k, tmp_path):
    file = write_config(hands_11k, tmp_path / "run")
    joint = [*PROTOCOL, "DATASETS.ASPECT", "all", "MODEL.SIE_VIEW", "True"]
    train(file, *joint, "TEST.RUNS", "2")
    dataset = make_dataset(load_config(file, [*joint, "TEST.RUNS", "2"])[0])
    assert not set(dataset.train_identities) & set(dataset.test_identities)
    for trial in dataset.trials:
        listed = Listing(tmp_path / "run" / f"split_run{trial.run}.csv", hands_11k)
        assert sorted(listed.query) == sorted(trial.query) and sorted(listed.gallery) == sorted(trial.gallery)
        assert sorted(listed.train) == sorted(dataset.train)


def test_validation_chooses_the_best_epoch(trained):
    base, _ = trained
    found = metrics_of(base / "run")
    scores = {e["epoch"]: e["validation mAP"] for e in found["history"] if e["stage"] == 2}
    assert list(scores) == [1, 2, 3]
    assert found["best"]["epoch"] == max(scores, key=scores.get)  # of equals the first
    assert 100 * found["best"]["mAP"] == pytest.approx(max(scores.values()))
    assert list(found["results"]) == ["trained", "best"]
    assert "mAP" not in found["history"][-1], "the test set must not be evaluated while an epoch is chosen"
    assert "6 held-out images against 18" in log_of(base / "run")


def test_the_best_checkpoint_is_that_epochs(hands_11k, tmp_path, monkeypatch):
    """Validation scores made up, so that epoch 2 of 3 is the best."""
    import processor.processor_clipreid_stage2 as stage2

    scores = iter([0.2, 0.7, 0.4])
    judged = stage2.validate_model
    monkeypatch.setattr(
        stage2, "validate_model", lambda *a: type(judged(*a))(np.ones(50), next(scores), 0.0, 1, 0, *2 * [np.ones(1)])
    )
    file = write_config(hands_11k, tmp_path / "run")
    options = ["DATASETS.HOLD_OUT", "True", "SOLVER.STAGE2.EVAL_PERIOD", "1", "SOLVER.STAGE2.CHECKPOINT_PERIOD", "1"]
    train(file, *PROTOCOL, *options, "SOLVER.STAGE2.MAX_EPOCHS", "3")
    best, second, last = (
        torch.load(tmp_path / "run" / f"ViT-Tiny-16_{name}.pth", weights_only=True) for name in ("best", 2, 3)
    )
    assert all(torch.equal(best[name], second[name]) for name in second)
    assert not all(torch.equal(best[name], last[name]) for name in last)
    assert metrics_of(tmp_path / "run")["best"] == {"epoch": 2, "mAP": 0.7}
    evaluate(file, *PROTOCOL, "TEST.WEIGHT", tmp_path / "run" / "ViT-Tiny-16_best.pth", "OUTPUT_DIR", tmp_path / "t")
    tested, chosen = metrics_of(tmp_path / "t")["results"]["test"], metrics_of(tmp_path / "run")["results"]["best"]
    assert (tested["mAP"], tested["CMC"]) == (chosen["mAP"], chosen["CMC"])


def test_an_interrupted_run_remembers_its_best_epoch(trained, tmp_path):
    """Epochs 1 to 3 at once, or 1 and 2 with a stop in between: the same best epoch and numbers."""
    base, file = trained
    shutil.copytree(base / "run", tmp_path / "run")
    before = metrics_of(tmp_path / "run")
    states = sorted((tmp_path / "run" / "resume").glob("state_*.pt"))
    states[-1].unlink()  # the end of epoch 3 was never reached
    options = ["DATASETS.HOLD_OUT", "True", "TEST.RUNS", "3", "SOLVER.STAGE2.EVAL_PERIOD", "1"]
    train(file, *PROTOCOL, *options, "SOLVER.STAGE2.MAX_EPOCHS", "3", "OUTPUT_DIR", tmp_path / "run")
    after = metrics_of(tmp_path / "run")
    assert after["best"] == before["best"]
    assert after["results"]["best"]["mAP"] == before["results"]["best"]["mAP"]


def test_a_run_resumed_elsewhere_keeps_its_best_epoch(trained, tmp_path):
    base, file = trained
    shutil.copytree(base / "run", tmp_path / "first")
    options = ["DATASETS.HOLD_OUT", "True", "TEST.RUNS", "3", "SOLVER.STAGE2.EVAL_PERIOD", "1"]
    options += ["SOLVER.STAGE2.MAX_EPOCHS", "3", "RESUME", tmp_path / "first"]
    train(file, *PROTOCOL, *options, "OUTPUT_DIR", tmp_path / "second")
    best = "ViT-Tiny-16_best.pth"
    assert (tmp_path / "second" / best).read_bytes() == (base / "run" / best).read_bytes()
    assert (
        metrics_of(tmp_path / "second")["results"]["best"]["mAP"] == metrics_of(base / "run")["results"]["best"]["mAP"]
    )

    (tmp_path / "first" / best).unlink()
    argv = ["--config_file", str(file), *map(str, [*PROTOCOL, *options, "OUTPUT_DIR", tmp_path / "third"])]
    assert train_clipreid.main(argv) == 2
    assert f"first/{best}: the best checkpoint of the run to resume is missing" in log_of(tmp_path / "third")


def test_what_chooses_the_best_epoch_may_not_change_on_the_way(trained, tmp_path):
    base, file = trained
    shutil.copytree(base / "run", tmp_path / "run")
    options = ["DATASETS.HOLD_OUT", "True", "TEST.RUNS", "3", "SOLVER.STAGE2.EVAL_PERIOD", "1"]
    options += ["SOLVER.STAGE2.MAX_EPOCHS", "3", "OUTPUT_DIR", tmp_path / "run", "TEST.AP", "trapezoid"]
    assert train_clipreid.main(["--config_file", str(file), *map(str, [*PROTOCOL, *options])]) == 2
    assert "(TEST.AP: " in log_of(tmp_path / "run")


def test_verification_in_log_numbers_and_curves(trained):
    base, _ = trained
    found = metrics_of(base / "run")["results"]["best"]["verification"]
    pairs = (found["genuine pairs"], found["impostor pairs"])
    assert pairs == (15, 15 * 9)  # 15 queries; the gallery has the person and 9 others
    low, high = found["EER interval"]
    assert 0 <= low <= high <= 100 and 0 <= found["EER"] <= 100
    assert found["TAR at FAR 0.01"] is None  # 135 pairs are too few for 1 %
    assert "TAR at FAR 0.01: not enough impostor pairs (135 of 1,000 needed)" in log_of(base / "run")
    assert re.search(r"verification \(best, run 0\): EER \d+\.\d+% \[", log_of(base / "run"))
    with np.load(base / "run" / "verification.npz") as arrays:
        assert (np.diff(arrays["far"]) >= 0).all() and (np.diff(arrays["frr"]) <= 0).all()
        assert (arrays["genuine"].sum(), arrays["impostor"].sum()) == pairs
        assert len(arrays["edges"]) == len(arrays["genuine"]) + 1


def test_verification_can_be_left_out(trained, tmp_path):
    base, file = trained
    weight = ["TEST.WEIGHT", base / "run" / "ViT-Tiny-16_3.pth", "TEST.VERIFICATION", "False"]
    evaluate(file, *PROTOCOL, *weight, "OUTPUT_DIR", tmp_path / "out")
    assert "EER" not in metrics_of(tmp_path / "out")["results"]["test"] and "EER" not in log_of(tmp_path / "out")
    assert not (tmp_path / "out" / "verification.npz").exists()


def test_one_person_has_ranks_but_no_impostors(trained, tmp_path):
    base, file = trained
    root = make_toy_hands(tmp_path / "one", train_ids=0, test_ids=1)
    weight = ["TEST.WEIGHT", base / "run" / "ViT-Tiny-16_3.pth", "OUTPUT_DIR", tmp_path / "out"]
    evaluate(file, "DATASETS.NAMES", "hand", "DATASETS.ROOT_DIR", root, *weight)
    assert metrics_of(tmp_path / "out")["results"]["test"]["mAP"] == 100
    assert "no verification: all pairs" in log_of(tmp_path / "out")


def test_a_set_without_held_out_images_has_a_note(tmp_path):
    file = write_config(make_toy_hands(tmp_path / "hands"), tmp_path / "run")
    train(file, "DATASETS.HOLD_OUT", "True")
    assert "DATASETS.HOLD_OUT = True, but hand holds out no images" in log_of(tmp_path / "run")
    assert list(metrics_of(tmp_path / "run")["results"]) == ["trained"]


def test_training_on_one_set_and_testing_on_another(trained, tmp_path):
    """Other people, other number of them, other reader, no training images."""
    base, file = trained
    root = make_toy_hands(tmp_path / "hands", train_ids=3, test_ids=7)
    shutil.rmtree(root / "train")
    other = ["DATASETS.NAMES", "hand", "DATASETS.ROOT_DIR", root, "TEST.RUNS", "1", "OUTPUT_DIR", tmp_path / "out"]
    evaluate(file, *other, "TEST.WEIGHT", base / "run" / "ViT-Tiny-16_best.pth")
    found = metrics_of(tmp_path / "out")["results"]["test"]
    assert found["queries"] == 14 and "runs" not in found


def test_a_broken_image_of_a_later_run_is_found(trained, hands_11k, tmp_path, capsys):
    base, file = trained
    root = tmp_path / "hands"
    shutil.copytree(hands_11k, root)
    dataset = make_dataset(load_config(file, [*PROTOCOL, "TEST.RUNS", "3"])[0])
    first = {record.path for record in dataset.trials[0].images}
    later = next(r.path for t in dataset.trials for r in t.images if r.path not in first)
    victim = root / "Hands" / later.rpartition("/")[2]
    victim.write_bytes(b"no image")
    options = [*PROTOCOL, "DATASETS.ROOT_DIR", root, "TEST.RUNS", "3", "OUTPUT_DIR", tmp_path / "out"]
    argv = [*options, "TEST.WEIGHT", base / "run" / "ViT-Tiny-16_3.pth"]
    close_logger()
    assert test_clipreid.main(["--config_file", *map(str, [file, *argv])]) == 2
    assert str(victim) in "".join(capsys.readouterr())
    evaluate(file, *argv, "DATASETS.BAD_IMAGES", "skip")
    assert len(metrics_of(tmp_path / "out")["results"]["test"]["runs"]) == 3

"""Both scripts from the command line to the files they leave, on hands of a few pixels."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import test_clipreid
import train_clipreid
from configs import load_config
from model.clip.model import TextEncoder, make_image_encoder
from model.clip.shapes import ARCHITECTURES
from processor.compare import Job, finished
from processor.runs.folder import read_run
from tests.scripts import evaluate, metrics_of, train
from tests.toy_hands import make_toy_hands, write_config

ROOT = Path(__file__).resolve().parents[1]
LAST_LINE = re.compile(r"\d+ s on cpu, float32; weights: (.*); results in (.*)")


def script(name, *argv):
    """A script as its users start it: the exit status and the lines on either stream."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, name, "--config_file", *map(str, argv)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def checkpoint(path):
    return torch.load(path, weights_only=True)


def table(lines):
    """The last lines as rows of numbers by name, and the line under them and under the error rates."""
    said = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines]
    head = max(i for i, line in enumerate(said) if line.split() == ["mAP", "Rank-1", "Rank-5", "Rank-10"])
    rates = next(i for i, line in enumerate(said) if i > head and "EER" in line.split())
    assert len(said) - 2 - rates == rates - head - 1  # a row each
    rows = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in said[head + 1 : rates]}
    return rows, said[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the training script: its folders and its output."""
    base = tmp_path_factory.mktemp("trained")
    hands = make_toy_hands(base / "hands")
    file = write_config(hands, base / "run", pictures=True)
    status, lines = script("train_clipreid.py", file, "TEST.BEFORE_TRAINING", "True", "SOLVER.STAGE2.MAX_EPOCHS", "2")
    assert status == 0, "\n".join(lines)
    return base, file, lines


def test_training_ends_with_a_table(trained):
    base, _, lines = trained
    rows, last = table(lines)
    assert list(rows) == ["untrained", "trained"] and all(len(row) == 4 for row in rows.values())
    assert LAST_LINE.fullmatch(last).groups() == ("random start", str(base / "run"))
    found = metrics_of(base / "run")["results"]
    measured = {"AP": "standard", "METRIC": "euclidean", "FLIP": False, "NECK_FEAT": "before", "FEAT_NORM": "yes"}
    assert found["trained"]["protocol"] == measured | {"RE_RANKING": False}
    for name, row in rows.items():
        assert row == [round(found[name][column], 1) for column in ("mAP", "Rank-1", "Rank-5", "Rank-10")]
    assert not any("Traceback" in line for line in lines)


def test_a_method_that_cannot_work_is_refused_before_anything_is_written(trained):
    base, file, _ = trained
    before = {path: path.read_bytes() for path in (base / "run").glob("**/*") if path.is_file()}
    argv = ["--config_file", str(file), "RESUME", "never", "MODEL.METHOD", "baseline"]
    assert train_clipreid.main(argv) == 2  # its only stages are [2]
    assert before == {path: path.read_bytes() for path in (base / "run").glob("**/*") if path.is_file()}


def test_training_leaves_its_files(trained):
    base, _, lines = trained
    names = {
        "config.yml",
        "train_log.txt",
        "metrics.json",
        "ranking.png",
        "curves.png",
        "pictures",
        "queries.npz",
        "report.html",
        "ViT-Tiny-16_stage1_1.pth",
        "ViT-Tiny-16_2.pth",
    }
    assert names <= {path.name for path in (base / "run").iterdir()}
    assert not [path for path in (base / "run").iterdir() if path.name.startswith(".")]
    with Image.open(base / "run" / "ranking.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 500
    metrics = metrics_of(base / "run")
    for label, value in {"dataset": "hand", "model": "ViT-Tiny-16", "weights": "random start"}.items():
        assert [result[label] for result in metrics["results"].values()] == [value, value]
    assert [(entry["stage"], entry["epoch"]) for entry in metrics["history"]] == [(1, 1), (2, 1), (2, 2)]
    assert len(metrics["results"]["trained"]["CMC"]) == 50 and metrics["results"]["trained"]["queries"] == 8
    log = (base / "run" / "train_log.txt").read_text()
    said = [line.split(" ", 1)[1].replace(f"{base}/", ".../") for line in lines if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert all(line in log for line in said)


def test_the_last_lines_name_a_command_that_works(trained, tmp_path):
    base, _, lines = trained
    (command,) = (line.partition("next: ")[2] for line in lines if "next: " in line)
    python, name, *rest = shlex.split(command)
    assert (python, name) == ("python", "test_clipreid.py")
    evaluate(*rest[1:], "OUTPUT_DIR", tmp_path / "out", "TEST.PICTURES", "False")
    found = metrics_of(tmp_path / "out")["results"]["test"]
    assert found["mAP"] == metrics_of(base / "run")["results"]["trained"]["mAP"]
    assert (tmp_path / "out" / "report.html").exists() and not (tmp_path / "out" / "pictures").exists()


def test_training_reports_every_term(trained):
    _, _, lines = trained
    (line,) = (line for line in lines if "stage 2 epoch 2/2: loss" in line)
    for name in ("loss", "id", "triplet", "i2t", "accuracy", "lr", "images_per_second"):
        assert re.search(rf"\b{name} [\d.e+-]+", line), name
    (line,) = (line for line in lines if "stage 1 epoch 1/1: loss" in line)
    for name in ("loss", "i2t", "t2i", "lr", "images_per_second"):
        assert re.search(rf"\b{name} [\d.e+-]+", line), name


def test_the_written_configuration_is_the_run(trained, tmp_path):
    base, file, _ = trained
    given, _ = load_config(file, ["TEST.BEFORE_TRAINING", "True", "SOLVER.STAGE2.MAX_EPOCHS", "2"])
    again, notes = load_config(base / "run" / "config.yml")
    assert again == given and not notes


def test_testing_gives_the_trained_numbers_without_training_images(trained, tmp_path):
    base, file, _ = trained
    hands = tmp_path / "hands"
    shutil.copytree(base / "hands" / "test", hands / "test")
    weight = base / "run" / "ViT-Tiny-16_2.pth"
    overrides = ["TEST.WEIGHT", weight, "DATASETS.ROOT_DIR", hands, "OUTPUT_DIR", tmp_path / "out"]
    status, lines = script("test_clipreid.py", file, *overrides)
    assert status == 0, "\n".join(lines)
    rows, last = table(lines)
    assert list(rows) == ["test"] and LAST_LINE.fullmatch(last).groups() == (str(weight), str(tmp_path / "out"))
    found, expected = metrics_of(tmp_path / "out")["results"]["test"], metrics_of(base / "run")["results"]["trained"]
    measured = {"mAP", "mINP", "Rank-1", "Rank-5", "Rank-10", "CMC", "queries"}
    assert {k: found[k] for k in measured} == {k: expected[k] for k in measured}
    assert found["weights"] == f".../{weight.name}"
    assert {"config.yml", "train_log.txt", "ranking.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_testing_in_the_folder_of_the_training_keeps_its_files(trained, tmp_path):
    base, file, _ = trained
    run = tmp_path / "run"
    shutil.copytree(base / "run", run)
    kept = {name: (run / name).read_bytes() for name in ("config.yml", "ranking.png")}
    before = metrics_of(run)
    evaluate(file, "TEST.WEIGHT", run / "ViT-Tiny-16_2.pth", "OUTPUT_DIR", run)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    after = metrics_of(run)
    assert after["history"] == before["history"] and after["seconds"] == before["seconds"]
    assert list(after["results"]) == ["untrained", "trained", "test"]
    assert after["results"]["test"]["mAP"] == before["results"]["trained"]["mAP"]
    assert (run / "config_test.yml").exists() and (run / "ranking_test.png").exists()

    shutil.rmtree(run / "resume")  # states are large; the files of the training are still not a test's
    shutil.copy(run / "ViT-Tiny-16_2.pth", run / "other.pth")
    again = ["OUTPUT_DIR", run, "TEST.PICTURES", "False"]
    evaluate(file, "TEST.WEIGHT", run / "ViT-Tiny-16_2.pth", *again, "TEST.METRIC", "cosine")
    evaluate(file, "TEST.WEIGHT", run / "other.pth", *again)
    evaluate(file, "TEST.WEIGHT", run / "ViT-Tiny-16_2.pth", *again)  # nothing new
    assert {name: (run / name).read_bytes() for name in kept} == kept
    rows = metrics_of(run)["results"]
    tests = [(name, row["protocol"]["METRIC"], row["weights"]) for name, row in rows.items() if "test" in name]
    first, second = ".../ViT-Tiny-16_2.pth", ".../other.pth"
    assert tests == [("test 2", "cosine", first), ("test 3", "euclidean", second), ("test", "euclidean", first)]
    assert rows["test"] | {"seconds": 0} == after["results"]["test"] | {"seconds": 0}
    assert "<strong>test</strong>" in (run / "report_test.html").read_text()


def test_a_finished_training_under_another_protocol_has_a_row_of_its_own(trained, tmp_path, capsys):
    """And ``processor.compare`` reads the row of the configuration's protocol."""
    base, _, _ = trained
    run = tmp_path / "run"
    shutil.copytree(base / "run", run)
    before = metrics_of(run)["results"]["trained"]
    again = ["OUTPUT_DIR", str(run), "TEST.PICTURES", "False"]
    train(run / "config.yml", *again, "TEST.AP", "trapezoid")
    rows = metrics_of(run)["results"]
    assert list(rows) == ["trained", "untrained", "trained 2"]
    assert rows["trained"] == before and rows["trained 2"]["mAP"] != before["mAP"]
    assert "trained 2 " in capsys.readouterr().out and read_run(run).name == "trained 2"
    settings = read_run(run).settings

    def asked(average_precision):
        given = settings | {"TEST.AP": average_precision, "DATASETS.ROOT_DIR": str(base / "hands")}
        return finished(Job("a", Path("a.yml"), 1, run, given))

    assert asked("trapezoid").name == "trained 2" and asked("standard") is None
    train(run / "config.yml", *again, "TEST.AP", "standard")
    assert asked("standard").name == "trained" and asked("trapezoid") is None
    assert asked("standard").result["mAP"] == before["mAP"] and len(metrics_of(run)["results"]) == 3


def test_a_test_made_while_a_training_runs_survives_its_end(trained, config, tmp_path, monkeypatch):
    base, _, _ = trained
    metrics = metrics_of(base / "run")
    metrics["results"] = {"test": metrics["results"]["trained"]}
    train_stage2 = train_clipreid.do_train_stage2

    def tested_meanwhile(*args, **kwargs):
        (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
        train_stage2(*args, **kwargs)

    monkeypatch.setattr(train_clipreid, "do_train_stage2", tested_meanwhile)
    train(config)
    found = metrics_of(tmp_path / "run")
    assert list(found["results"]) == ["test", "trained"] and len(found["history"]) == 2


def test_a_failing_script(trained, tmp_path):
    _, file, _ = trained
    status, lines = script("train_clipreid.py", file, "SOLVER.SEDE", "1", "OUTPUT_DIR", tmp_path / "out")
    assert status == 2 and lines == ["error: command line: unknown key SOLVER.SEDE. Did you mean SOLVER.SEED?"]
    assert not (tmp_path / "out").exists()


def refused(main, capsys, *argv):
    """The message of a script that must end with status 2 and one message."""
    assert main(["--config_file", *map(str, argv)]) == 2
    said = "".join(capsys.readouterr())
    assert said.count("error: ") == 1 and "Traceback" not in said
    return said[said.index("error: ") :]


BOTH_SCRIPTS = pytest.mark.parametrize("main", [train_clipreid.main, test_clipreid.main])
ANY_WEIGHT = ["TEST.WEIGHT", __file__]  # a file that is there; what is wrong shows before it is read


@BOTH_SCRIPTS
def test_missing_and_empty_folders(main, config, tmp_path, capsys):
    gone = tmp_path / "gone"
    assert f"{gone}: no such folder" in refused(main, capsys, config, "DATASETS.ROOT_DIR", gone, *ANY_WEIGHT)
    gone.mkdir()
    said = refused(main, capsys, config, "DATASETS.ROOT_DIR", gone, *ANY_WEIGHT)
    assert str(gone) in said and "no such folder" in said and "query/<identity>" in said
    for split in ("train", "test/query", "test/gallery"):
        (gone / split).mkdir(parents=True)
    assert "no images found" in refused(main, capsys, config, "DATASETS.ROOT_DIR", gone, *ANY_WEIGHT)


@BOTH_SCRIPTS
def test_missing_configuration_and_data_set(main, config, tmp_path, capsys):
    assert "no such configuration file" in refused(main, capsys, tmp_path / "gone.yml")
    assert "DATASETS.NAMES = 'hands'" in refused(main, capsys, config, "DATASETS.NAMES", "hands", *ANY_WEIGHT)


def test_an_output_folder_that_cannot_be_made(config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    said = refused(train_clipreid.main, capsys, config, "OUTPUT_DIR", tmp_path / "file" / "run")
    assert "OUTPUT_DIR" in said and "cannot be written" in said


def test_the_error_for_missing_clip_weights_names_their_source(config, tmp_path, capsys, monkeypatch):
    """Offline, without a file: no silent random start."""
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    pretrained = ["MODEL.PRETRAIN_CHOICE", "imagenet"]
    said = refused(train_clipreid.main, capsys, config, *pretrained, "MODEL.NAME", "ViT-B-16")
    assert str(tmp_path / "cache" / "ViT-B-16.pt") in said and "SHA-256" in said and "MODEL.PRETRAIN_PATH" in said
    said = refused(train_clipreid.main, capsys, config, *pretrained)
    assert "MODEL.NAME = 'ViT-Tiny-16': OpenAI published no weights for it" in said and "'random'" in said
    said = refused(train_clipreid.main, capsys, config, *pretrained, "MODEL.PRETRAIN_PATH", tmp_path / "gone.pt")
    assert "gone.pt" in said and "no such file" in said


def test_missing_test_weights(config, tmp_path, capsys):
    assert "TEST.WEIGHT is empty" in refused(test_clipreid.main, capsys, config)
    said = refused(test_clipreid.main, capsys, config, "TEST.WEIGHT", tmp_path / "gone.pth")
    assert "gone.pth" in said


def test_broken_images_are_found_before_training(hands, config, tmp_path, capsys):
    broken = tmp_path / "hands"
    shutil.copytree(hands, broken)
    victim = next((broken / "train").glob("*/*.png"))
    victim.write_bytes(victim.read_bytes()[:200])
    said = refused(train_clipreid.main, capsys, config, "DATASETS.ROOT_DIR", broken)
    assert str(victim) in said and "1 of 40 images" in said
    train(config, "DATASETS.ROOT_DIR", broken, "DATASETS.BAD_IMAGES", "skip")
    assert "1 of 40 images cannot be read" in capsys.readouterr().out
    unchecked = ["DATASETS.ROOT_DIR", broken, "DATASETS.CHECK_IMAGES", "False", "DATALOADER.NUM_WORKERS", "1"]
    unchecked += ["OUTPUT_DIR", tmp_path / "unchecked"]
    said = refused(train_clipreid.main, capsys, config, *unchecked)
    assert said.startswith(f"error: {victim}: cannot be read") and len(said.splitlines()) == 1


def test_the_stages_one_after_the_other_are_both_at_once(config, tmp_path):
    two_epochs = ["SOLVER.STAGE1.MAX_EPOCHS", "2"]
    train(config, *two_epochs)
    train(config, *two_epochs, "SOLVER.STAGES", "[1]", "OUTPUT_DIR", tmp_path / "one")
    assert not (tmp_path / "one" / "ViT-Tiny-16_1.pth").exists()
    prompts = tmp_path / "one" / "ViT-Tiny-16_stage1_2.pth"
    train(config, "SOLVER.STAGES", "[2]", "MODEL.STAGE1_WEIGHT", prompts, "OUTPUT_DIR", tmp_path / "two")
    apart, together = (
        checkpoint(tmp_path / "two" / "ViT-Tiny-16_1.pth"),
        checkpoint(tmp_path / "run" / "ViT-Tiny-16_1.pth"),
    )
    assert apart.keys() == together.keys()
    assert all(torch.equal(apart[name], together[name]) for name in together)


def test_prompts_of_other_people_are_refused(config, tmp_path, capsys):
    train(config, "SOLVER.STAGES", "[1]")
    prompts = tmp_path / "run" / "ViT-Tiny-16_stage1_1.pth"
    other = make_toy_hands(tmp_path / "other", train_ids=5)
    said = refused(
        train_clipreid.main,
        capsys,
        config,
        *["SOLVER.STAGES", "[2]", "MODEL.STAGE1_WEIGHT", prompts, "OUTPUT_DIR", tmp_path / "two"],
        *["DATASETS.ROOT_DIR", other],
    )
    assert "prompt_learner.cls_ctx" in said and "[6, 4, 64]" in said


def test_the_baseline(config, tmp_path):
    train(config, "MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]", "MODEL.NAME", "RN-Tiny")
    state = checkpoint(tmp_path / "run" / "RN-Tiny_1.pth")
    assert not [name for name in state if name.startswith(("prompt_learner", "text_encoder"))]
    assert not [entry for entry in metrics_of(tmp_path / "run")["history"] if "i2t" in entry]
    method = ["MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]", "MODEL.NAME", "RN-Tiny"]
    evaluate(config, "TEST.WEIGHT", tmp_path / "run" / "RN-Tiny_1.pth", *method)


SAMPLERS = ("softmax", "softmax_triplet", "triplet")
METRIC_LOSSES = ("triplet", "center", "triplet_center")
GRID = [
    *itertools.product(SAMPLERS, ("softmax",), METRIC_LOSSES, ("clipreid",), (False,)),
    *itertools.product(
        SAMPLERS[:2], ("arcface", "cosface", "amsoftmax", "circle"), ("triplet",), ("clipreid",), (False,)
    ),
    *itertools.product(SAMPLERS, ("softmax",), ("triplet_center",), ("baseline",), (True,)),
]


@pytest.mark.parametrize(("sampler", "id_loss", "metric_loss", "method", "soft_margin"), GRID)
def test_every_sampler_and_loss_trains(config, tmp_path, sampler, id_loss, metric_loss, method, soft_margin):
    stages = "[1, 2]" if method == "clipreid" else "[2]"
    train(
        config,
        *["DATALOADER.SAMPLER", sampler, "MODEL.ID_LOSS_TYPE", id_loss, "MODEL.METRIC_LOSS_TYPE", metric_loss],
        *["MODEL.METHOD", method, "SOLVER.STAGES", stages, "MODEL.NO_MARGIN", str(soft_margin)],
        *["TEST.VERIFICATION", "False"],
    )
    (entry,) = (entry for entry in metrics_of(tmp_path / "run")["history"] if entry["stage"] == 2)
    terms = {
        "id": sampler != "triplet",
        "triplet": sampler != "softmax" and "triplet" in metric_loss,
        "i2t": method == "clipreid",
        "center": "center" in metric_loss,
    }
    assert {name for name in terms if name in entry} == {name for name, on in terms.items() if on}
    assert entry["loss"] == pytest.approx(sum(entry[name] for name, on in terms.items() if on), rel=1e-5)
    assert not (tmp_path / "run" / "ranking.png").exists()


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory):
    """A small CLIP under OpenAI's names: what its authors would publish, but random."""
    torch.manual_seed(3)
    shape = ARCHITECTURES["ViT-Tiny-16"]
    image, text = make_image_encoder(shape, (32, 32), None), TextEncoder(shape.text, shape.embed_dim)
    state = {f"visual.{name}": tensor for name, tensor in image.state_dict().items()} | text.state_dict()
    state["token_embedding.weight"] = 0.02 * torch.randn(shape.text.vocabulary, shape.text.width)
    state["logit_scale"] = torch.tensor(1.0)
    path = tmp_path_factory.mktemp("clip") / "tiny_clip.pt"
    torch.save({name: tensor.half() for name, tensor in state.items()}, path)
    return path


def test_training_from_clip_weights_and_testing_them_zero_shot(config, clip_weights, tmp_path):
    start = ["MODEL.PRETRAIN_CHOICE", "imagenet", "MODEL.PRETRAIN_PATH", clip_weights]
    train(config, *start, "TEST.BEFORE_TRAINING", "True", "SOLVER.STAGES", "[1]")
    first = metrics_of(tmp_path / "run")
    assert first["results"]["trained"]["weights"] == f"start from .../{clip_weights.name}"
    state, published = checkpoint(tmp_path / "run" / "ViT-Tiny-16_stage1_1.pth"), checkpoint(clip_weights)
    assert torch.equal(state["image_encoder.proj"], published["visual.proj"].float())
    assert torch.equal(state["text_encoder.text_projection"], published["text_projection"].float())
    evaluate(config, "TEST.WEIGHT", clip_weights, "OUTPUT_DIR", tmp_path / "zero_shot")
    found = metrics_of(tmp_path / "zero_shot")["results"]["test"]
    assert found["mAP"] == first["results"]["untrained"]["mAP"]
    assert found["CMC"] == first["results"]["untrained"]["CMC"]


def test_side_information_and_overlapping_patches(hands, config, tmp_path, capsys):
    root = tmp_path / "hands"
    shutil.copytree(hands, root)
    views = {path: ("dorsal", "palmar")[i % 2] for i, path in enumerate(sorted(root.glob("**/*.png")))}
    rows = [f"{path.relative_to(root).as_posix()},{view}\n" for path, view in views.items()]
    (root / "views.csv").write_text("path,view\n" + "".join(rows))
    options = ["DATASETS.ROOT_DIR", root, "MODEL.SIE_VIEW", "True", "MODEL.STRIDE_SIZE", "[8, 8]"]
    train(config, *options)
    state = checkpoint(tmp_path / "run" / "ViT-Tiny-16_1.pth")
    assert state["cv_embed"].shape == (2, 64) and len(state["image_encoder.positional_embedding"]) == 1 + 3 * 3
    shutil.rmtree(root / "train")
    weight = ["TEST.WEIGHT", tmp_path / "run" / "ViT-Tiny-16_1.pth", "OUTPUT_DIR", tmp_path / "test"]
    evaluate(config, *options, *weight)
    assert (
        metrics_of(tmp_path / "test")["results"]["test"]["mAP"]
        == metrics_of(tmp_path / "run")["results"]["trained"]["mAP"]
    )
    capsys.readouterr()
    said = refused(test_clipreid.main, capsys, config, "DATASETS.ROOT_DIR", root, *weight)
    assert "trained with side information" in said and "MODEL.SIE_VIEW" in said


def test_a_view_that_training_has_never_seen(hands, config, tmp_path, capsys):
    root = tmp_path / "hands"
    shutil.copytree(hands, root)
    rows = [(path.relative_to(root).as_posix(), "b" if "test" in path.parts else "a") for path in root.glob("**/*.png")]
    (root / "views.csv").write_text("path,view\n" + "".join(f"{path},{view}\n" for path, view in rows))
    said = refused(train_clipreid.main, capsys, config, "DATASETS.ROOT_DIR", root, "MODEL.SIE_VIEW", "True")
    assert "MODEL.SIE_VIEW" in said and "no training image shows" in said


@pytest.mark.parametrize(
    "options",
    [
        {"TEST.RE_RANKING": "True", "TEST.RERANK_K1": "5", "TEST.RERANK_K2": "2"},
        {"TEST.RE_RANKING": "True"},
        {"TEST.FLIP": "True"},
        {"TEST.FEAT_NORM": "no"},
        {"TEST.NECK_FEAT": "after"},
        {"TEST.AP": "trapezoid"},
        {"INPUT.INTERPOLATION_TEST": "nearest", "INPUT.SIZE_TRAIN": "[48, 32]", "INPUT.SIZE_TEST": "[48, 32]"},
    ],
    ids=lambda options: "-".join(f"{key}-{value}" for key, value in options.items()),
)
def test_options_of_the_test_change_the_result(trained, tmp_path, options):
    """A key that is read but not used would not change the numbers."""
    base, file, _ = trained
    words = [word for pair in options.items() for word in pair]
    folders = [tmp_path / "with", tmp_path.parent / "plain"]
    for folder, given in zip(folders, (words, []), strict=True):
        if not folder.exists():  # without options it is always the same
            weight = ["TEST.WEIGHT", base / "run" / "ViT-Tiny-16_2.pth", "TEST.PICTURES", "False"]
            evaluate(file, *weight, "OUTPUT_DIR", folder, "TEST.DIST_MAT", "distances.npy", *given)
    found, plain = (metrics_of(folder)["results"]["test"] for folder in folders)
    distances = [np.load(folder / "distances.npy") for folder in folders]
    assert distances[0].shape == distances[1].shape == (8, 8)
    names = (folders[0] / "distances.csv").read_text().splitlines()
    assert names[0] == "axis,index,path,identity,camera" and len(names) == 1 + 8 + 8
    if words[0] == "TEST.AP":
        assert found["mAP"] != plain["mAP"] and found["CMC"] == plain["CMC"]
    else:
        assert np.abs(distances[0] - distances[1]).max() > 1e-4
    assert 0 <= found["mAP"] <= 100 and found["queries"] == 8

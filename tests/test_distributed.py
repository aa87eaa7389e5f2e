"""Two processes train, test, fail and go on as one process does. Both run on the CPU and talk by Gloo."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import train_clipreid
from tests.toy_hands import make_toy_hands, write_config
from utils.logger import close_logger

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
OPTIONS = {
    "SOLVER.STAGE1.MAX_EPOCHS": 2,
    "SOLVER.STAGE2.MAX_EPOCHS": 2,
    "SOLVER.STAGE2.EVAL_PERIOD": 1,
    "TEST.BEFORE_TRAINING": True,
    "TEST.PICTURES": False,
}
RUNS = {
    "vit": ("ViT-Tiny-16", {"MODEL.METRIC_LOSS_TYPE": "triplet_center", "SOLVER.STAGE2.CLIP_GRAD": 1.0}),
    "resnet": ("RN-Tiny", {"SOLVER.SYNC_BN": True, "TEST.FLIP": True, "DATALOADER.SAMPLER": "triplet"}),
    "shuffled": (
        "ViT-Tiny-16",
        {
            "DATALOADER.SAMPLER": "softmax",
            "SOLVER.STAGE2.IMS_PER_BATCH": 10,
            "SOLVER.STAGE2.ACCUMULATE": 2,
            "SOLVER.GRAD_CHECKPOINTING": True,
        },
    ),
}
"""By name: model and options. 23 training images are two batches of 10 and one of 3; ``triplet`` uses no head."""


def words(options):
    return [str(word) for pair in options.items() for word in pair]


def launch(folder, do, **order):
    """Start two processes; the exit status of torchrun, what was said, what each process found, and the seconds."""
    folder.mkdir(exist_ok=True)
    path = folder / "order.json"
    path.write_text(json.dumps({"do": do, **order}))
    began = time.monotonic()
    done = subprocess.run(
        [*TORCHRUN, "-m", "tests.pair_driver", str(path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = [torch.load(path, weights_only=False) for path in sorted(folder.glob("[01].pt"))]
    return done.returncode, done.stdout + done.stderr, found, time.monotonic() - began


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """23 training images of 6 people and 15 test images: odd numbers."""
    root = make_toy_hands(tmp_path_factory.mktemp("data") / "hands")
    (root / "train/person00/photo3.png").unlink()
    sorted((root / "test/gallery").glob("*/*.png"))[-1].unlink()
    return root


def overrides(folder, name):
    """The configuration file of a run in ``folder``, and what overrides it."""
    return str(folder / f"{name}.yml"), words(OPTIONS | RUNS[name][1])


def run_folders(hands, root):
    root.mkdir()
    for name, (model, _) in RUNS.items():
        write_config(hands, root / name, model)
    return root


@pytest.fixture(scope="module")
def alone(hands, tmp_path_factory):
    """Folder of the runs of one process."""
    root = run_folders(hands, tmp_path_factory.mktemp("alone") / "runs")
    for name in RUNS:
        train_clipreid.train(*overrides(root, name))
    close_logger()
    return root


class Pair(NamedTuple):
    """Folder of the runs, what was said, and how many images each process encoded in each evaluation."""

    root: Path
    said: str
    found: list


@pytest.fixture(scope="module")
def pair(hands, tmp_path_factory):
    """The same runs by two processes, and a test."""
    root = run_folders(hands, tmp_path_factory.mktemp("pair") / "runs")
    runs = [("train", *overrides(root, name)) for name in RUNS]
    file, options = overrides(root, "vit")
    weight = root / "vit/ViT-Tiny-16_2.pth"
    runs.append(("test", file, [*options, "OUTPUT_DIR", str(root / "test"), "TEST.WEIGHT", str(weight)]))
    status, said, found, _ = launch(root / "launch", "trainings", runs=runs)
    assert status == 0, said
    return Pair(root, said, found)


def read(root, name):
    return json.loads((root / name / "metrics.json").read_text())


def without_key_biases(state):
    """What is left has a gradient: a constant added to all keys changes no softmax, and Adam follows the rounding."""
    thirds = {name: tensor.chunk(3) for name, tensor in state.items() if name.endswith("in_proj_bias")}
    left = {name: torch.cat([q, v]) for name, (q, _, v) in thirds.items()}
    return {name: tensor for name, tensor in state.items() if not name.endswith("k_proj.bias")} | left


@pytest.mark.slow  # whichever is first waits for all runs
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_follow_the_trace_of_one(alone, pair, name):
    one, two = read(alone, name), read(pair.root, name)
    assert len(one["history"]) == 4
    for entry, expected in zip(two["history"], one["history"], strict=True):
        assert entry.keys() == expected.keys() and ("mAP" in entry) == (expected["stage"] == 2 and entry["epoch"] == 1)
        for key in entry.keys() - {"seconds", "images_per_second"}:
            assert entry[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-5), (key, entry)
    checkpoints = sorted(path.name for path in (alone / name).glob("*.pth"))
    assert len(checkpoints) == 2
    for file in checkpoints:
        state, expected = (
            without_key_biases(torch.load(root / name / file, weights_only=True)) for root in (pair.root, alone)
        )
        assert state.keys() == expected.keys()
        for key, tensor in state.items():
            assert (tensor - expected[key]).abs().max() < 1e-4, (file, key)


@pytest.mark.parametrize("name", [*RUNS, "test"])
def test_two_processes_evaluate_like_one(alone, pair, name):
    found = read(pair.root, name)["results"]
    expected = read(alone, "vit" if name == "test" else name)["results"]
    for when, numbers in found.items():
        for key in ("mAP", "Rank-1", "mINP", "EER", "CMC", "queries"):
            assert numbers[key] == pytest.approx(expected["trained" if name == "test" else when][key], abs=1e-4), key
        assert numbers["device"] == "2 x cpu, float32"


def test_each_test_image_is_counted_once(pair):
    """15 images: 7 for the one process and 8 for the other, in each of the ten evaluations."""
    assert pair.found == [[7] * 10, [8] * 10]


def test_the_first_process_alone_speaks_and_writes(alone, pair):
    assert "process 1" not in pair.said and "Warning" not in pair.said, pair.said
    assert len(re.findall(r"stage 2 epoch 1/2: loss", pair.said)) == len(RUNS)
    for name in RUNS:
        log = (pair.root / name / "train_log.txt").read_text().splitlines()
        assert len(log) == len((alone / name / "train_log.txt").read_text().splitlines()), name
        one, two = (sorted(p.relative_to(root) for p in (root / name).rglob("*")) for root in (alone, pair.root))
        assert one == two

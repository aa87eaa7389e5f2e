"""Two processes train, test, fail and resume as one process does, on the CPU with Gloo."""

import difflib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import train_clipreid
from datasets.sampler import PKBatchSampler, ShuffledBatches
from tests import pair_driver
from tests.scripts import words
from tests.toy_hands import make_toy_hands, write_config
from utils.console.logger import close_logger

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
OPTIONS = {
    "SOLVER.STAGE1.MAX_EPOCHS": 2,
    "SOLVER.STAGE2.MAX_EPOCHS": 2,
    "SOLVER.STAGE2.EVAL_PERIOD": 1,
    "TEST.BEFORE_TRAINING": True,
}
# By SGD: where a BNNeck takes out what all features share, Adam would follow the rounding of zero gradients.
SHORT = {
    "SOLVER.STAGES": [2],
    "SOLVER.STAGE2.MAX_EPOCHS": 1,
    "SOLVER.STAGE2.OPTIMIZER_NAME": "SGD",
    "SOLVER.STAGE2.BASE_LR": 0.01,
    "TEST.BEFORE_TRAINING": False,
    "TEST.VERIFICATION": False,
}
RUNS = {
    "vit": ("ViT-Tiny-16", {"MODEL.METRIC_LOSS_TYPE": "triplet_center", "SOLVER.STAGE2.CLIP_GRAD": 1.0}),
    "resnet": ("RN-Tiny", {"SOLVER.SYNC_BN": True, "TEST.FLIP": True, "DATALOADER.SAMPLER": "triplet"}),
    "shuffled": (
        "ViT-Tiny-16",
        SHORT
        | {
            "MODEL.METHOD": "baseline",
            "DATALOADER.SAMPLER": "softmax",
            "SOLVER.STAGE2.IMS_PER_BATCH": 10,
            "SOLVER.STAGE2.MICRO_BATCHES": 2,
            "SOLVER.GRAD_CHECKPOINTING": True,
        },
    ),
    "one stage": (
        "ViT-Tiny-16",
        SHORT | {"MODEL.ONE_STAGE": True, "MODEL.TEXT_LOSS": "i2t+t2i", "DATASETS.CACHE": "disk"},
    ),
    "handid": ("ViT-Tiny-16", SHORT | {"MODEL.METHOD": "handid"}),
    "pcl": (
        "ViT-Tiny-16",
        SHORT | {"MODEL.METHOD": "pcl", "SOLVER.STAGE2.MAX_EPOCHS": 2},
    ),
}
"""By name: model and options. 23 training images are two batches of 10 and one of 3; ``triplet`` uses no
head; ``handid`` has dropout behind the encoder, and ``pcl`` a memory that batches change."""


def launch(folder, do, **order):
    """Start two processes; the exit status of torchrun, the output, what each process found."""
    folder.mkdir()
    path = folder / "order.json"
    path.write_text(json.dumps({"do": do, **order}))
    done = subprocess.run(
        [*TORCHRUN, "-m", "tests.pair_driver", str(path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    found = [torch.load(path, weights_only=False) for path in sorted(folder.glob("[01].pt"))]
    return done.returncode, done.stdout + done.stderr, found


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """23 training images of 6 people and 15 test images: odd numbers."""
    root = make_toy_hands(tmp_path_factory.mktemp("data") / "hands")
    (root / "train/person00/photo3.png").unlink()
    sorted((root / "test/gallery").glob("*/*.png"))[-1].unlink()
    return root


def overrides(folder, name):
    """The configuration file of a run in ``folder``, and what overrides it."""
    return str(folder / f"{name}.yml"), words(OPTIONS | {"DATASETS.CACHE_DIR": folder / "cache"} | RUNS[name][1])


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
    """Folder of the runs, the output, and of each process what it found and the images it encoded per evaluation."""

    root: Path
    said: str
    primitives: tuple
    encoded: tuple


@pytest.fixture(scope="module")
def pair(hands, tmp_path_factory):
    """The same runs by two processes, and a test."""
    root = run_folders(hands, tmp_path_factory.mktemp("pair") / "runs")
    runs = [("train", *overrides(root, name)) for name in RUNS]
    file, options = overrides(root, "vit")
    weight = root / "vit/ViT-Tiny-16_2.pth"
    runs.append(("test", file, [*options, "OUTPUT_DIR", str(root / "test"), "TEST.WEIGHT", str(weight)]))
    status, said, found = launch(root / "launch", "everything", runs=runs)
    assert status == 0, said
    primitives, encoded = zip(*found, strict=True)
    return Pair(root, said, primitives, encoded)


def read(root, name):
    return json.loads((root / name / "metrics.json").read_text())


def without_key_biases(state):
    """What is left has a gradient: a constant added to all keys changes no softmax, and Adam follows the rounding."""
    thirds = {name: tensor.chunk(3) for name, tensor in state.items() if name.endswith("in_proj_bias")}
    left = {name: torch.cat([q, v]) for name, (q, _, v) in thirds.items()}
    return {name: tensor for name, tensor in state.items() if not name.endswith("k_proj.bias")} | left


def assert_same_weights(folder, other):
    checkpoints = sorted(path.name for path in other.glob("*.pth"))
    assert checkpoints
    for file in checkpoints:
        state, expected = (without_key_biases(torch.load(f / file, weights_only=True)) for f in (folder, other))
        assert state.keys() == expected.keys()
        for key, tensor in state.items():
            assert (tensor - expected[key]).abs().max() < 1e-4, (file, key)


@pytest.mark.slow  # the first of these tests waits for all runs
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_follow_the_trace_of_one(alone, pair, name):
    one, two = read(alone, name), read(pair.root, name)
    options = OPTIONS | RUNS[name][1]
    epochs = [options["SOLVER.STAGE2.MAX_EPOCHS"]] + [2] * ("SOLVER.STAGES" not in options)
    assert len(one["history"]) == sum(epochs)
    for entry, expected in zip(two["history"], one["history"], strict=True):
        assert entry.keys() == expected.keys()
        assert ("mAP" in entry) == (entry["stage"] == 2 and entry["epoch"] < epochs[0])
        for key in entry.keys() - {"seconds", "images_per_second"}:
            assert entry[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-4), (key, entry)
    assert_same_weights(pair.root / name, alone / name)


@pytest.mark.parametrize("name", [*RUNS, "test"])
def test_two_processes_evaluate_like_one(alone, pair, name):
    found = read(pair.root, name)["results"]
    expected = read(alone, "vit" if name == "test" else name)["results"]
    for when, numbers in found.items():
        for key in {"mAP", "Rank-1", "mINP", "EER", "CMC", "queries"} & numbers.keys():
            assert numbers[key] == pytest.approx(expected["trained" if name == "test" else when][key], abs=1e-4), key
        assert numbers["device"] == "2 x cpu, float32"


def test_each_test_image_is_counted_once(pair):
    """15 images: 7 for the one process and 8 for the other, in each of the 12 evaluations."""
    assert pair.encoded == ([7] * 12, [8] * 12)


def test_only_the_first_process_logs_and_writes(alone, pair):
    assert "process 1" not in pair.said and "Warning" not in pair.said, pair.said
    assert len(re.findall(r"stage 2 epoch 1/\d: loss", pair.said)) == len(RUNS)
    for name in RUNS:
        # Whether the machine was busy at its start is no matter of the run.
        logs = [(root / name / "train_log.txt").read_text().splitlines() for root in (pair.root, alone)]
        two, one = ([line[20:] for line in log if "this machine is busy" not in line] for log in logs)
        assert len(two) == len(one), (name, "\n".join(difflib.unified_diff(one, two, lineterm="")))
        one, two = (sorted(p.relative_to(root) for p in (root / name).rglob("*")) for root in (alone, pair.root))
        assert one == two


@pytest.mark.parametrize("case", ["uneven", "empty"])
def test_gathered_rows_give_the_gradients_of_one_process(pair, case):
    """3 rows and 4, or 7 and none; a layer that no loss uses has no gradient, and so no weight decay."""
    expected = pair_driver.gradients_of(pair_driver.ROWS)
    for found in (primitives[case] for primitives in pair.primitives):
        torch.testing.assert_close(found[:2], expected[:2], rtol=1e-12, atol=1e-12)
        assert found[2].keys() == expected[2].keys() and found[2]["idle.weight"] is None
        for name, gradient in expected[2].items():
            torch.testing.assert_close(found[2][name], gradient, rtol=1e-12, atol=1e-12)


def test_batch_norm_sees_the_images_of_both(pair):
    """2 images and 4; against torch's own on all 6, with the bias in front of it, whose gradient is zero."""
    gradients, state, outputs = pair_driver.batch_norm_of(pair_driver.IMAGES)
    for found in (primitives["batch norm"] for primitives in pair.primitives):
        largest = max(gradient.abs().max() for gradient in gradients.values())
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[0][name], gradient, rtol=1e-4, atol=1e-5 * float(largest))
        torch.testing.assert_close(found[1], state, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[2], outputs, rtol=1e-5, atol=1e-5)


def test_exchanges_between_two_processes(pair):
    first, second = pair.primitives
    for found in pair.primitives:
        assert found["shares"].tolist() == [0, 2, 4, 6, 8] and found["one for two"].tolist() == [0]
        assert found["objects"] == ["from 0", "from 1"] and found["from main"] == "made by 0"
        assert found["any"] == [False, True, True, True] and found["error"] == "the disk is full"
        assert torch.equal(found["bf16"][1], torch.cat([first["bf16"][0], second["bf16"][0]]))
    assert (first["on main"], second["on main"]) == ([0, 1], [])
    assert (first["main only"], second["main only"]) == ("made by 0", None)
    assert second["turn"] > 0.15, "the second process waits for the first"


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("kind", ["identities", "shuffled"])
def test_shares_make_up_the_batch(kind, processes):
    """In order; of PK batches each process has whole identities."""
    pids = [pid for pid in range(9) for _ in range(5)]

    def sampler(share=range):
        if kind == "shuffled":
            return ShuffledBatches(len(pids), 12, 1, share, smallest=max(2, processes))
        return PKBatchSampler(pids, 12, 2, 1, share)

    def shard_of(rank):
        return lambda count: range(count * rank // processes, count * (rank + 1) // processes)

    whole, parts = list(sampler()), [list(sampler(shard_of(rank))) for rank in range(processes)]
    assert [[draw for part in shares for draw in part] for shares in zip(*parts, strict=True)] == whole
    for batch in (batch for part in parts for batch in part):
        assert batch
        if kind == "identities":
            counts = Counter(pids[draw.index] for draw in batch)
            assert len(batch) == 12 // processes and all(count % 2 == 0 for count in counts.values())


def statuses(said):
    """Exit status of each process by its rank, from torchrun's report."""
    found = re.findall(r"rank      : (\d) .*\n  exitcode  : (-?\d+)", said)
    return {int(rank): int(status) for rank, status in found}


def assert_no_traceback_of_ours(said):
    assert "command_line.py" not in said, said


@pytest.mark.slow
def test_killed_stopped_and_resumed(alone, hands, tmp_path):
    """One of two processes is killed; torchrun stops two; one process resumes and ends as the uninterrupted run."""
    root = run_folders(hands, tmp_path / "runs")
    file, options = overrides(root, "vit")
    argv = ["--config_file", file, *options, "CHECKPOINT_MINUTES", "0.0", "DATALOADER.NUM_WORKERS", "2"]

    status, said, _ = launch(tmp_path / "kill", "script", argv=argv, at=3, act="SIGKILL itself")
    assert status and statuses(said) == {0: 2, 1: -9}, said
    assert said.count("error: another process of this run died") == 1
    assert_no_traceback_of_ours(said)

    status, said, _ = launch(tmp_path / "stop", "script", argv=argv, at=4, act="SIGTERM torchrun")
    assert said.count("resuming at stage 1, epoch 1, complete") == 1, said
    assert status and said.count("stopped at stage 2 epoch 1/2, iteration 2") == 1, said
    assert_no_traceback_of_ours(said)

    train_clipreid.train(file, argv[2:])
    close_logger()
    log = (root / "vit/train_log.txt").read_text()
    assert log.count("resuming at stage 2, epoch 1, 2 iterations done") == 1
    one, two = read(alone, "vit"), read(root, "vit")
    for entry, expected in zip(two["history"], one["history"], strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert_same_weights(root / "vit", alone / "vit")


@pytest.mark.slow
def test_a_mistake_gives_one_message(hands, tmp_path):
    """One that all processes find, and one that only the second finds while the first trains on."""
    root = run_folders(hands, tmp_path / "runs")
    file, options = overrides(root, "vit")
    argv = ["--config_file", file, *options]
    _, said, _ = launch(tmp_path / "all", "script", argv=[*argv, "SOLVER.STAGE2.IMS_PER_BATCH", "6"])
    message = "the batch of all 2 processes together and cannot be divided into equal shares of whole"
    assert said.count(message) == said.count("The nearest that can: 8.") == 1, said
    assert statuses(said) == {0: 2, 1: 2}
    assert_no_traceback_of_ours(said)

    _, said, _ = launch(tmp_path / "one", "script", argv=argv, at=2, act="fail")
    assert said.count("error: ") == said.count("process 1: error: only this process has lost its disk") == 1, said
    assert statuses(said) == {0: 2, 1: 2}
    assert_no_traceback_of_ours(said)
    assert (root / "vit/train_log.txt").read_text().count("process 1: error: only this process has lost its disk") == 1

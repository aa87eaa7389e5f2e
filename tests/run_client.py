"""Runs of one configuration, each in a process of its own, disturbed by a test; see :mod:`tests.run_driver`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.toy_hands import write_config

ROOT = Path(__file__).resolve().parents[1]
LONG = {
    "SOLVER.STAGE1.MAX_EPOCHS": 2,
    "SOLVER.STAGE1.CHECKPOINT_PERIOD": 1,
    "SOLVER.STAGE2.MAX_EPOCHS": 3,
    "SOLVER.STAGE2.CHECKPOINT_PERIOD": 2,
    "SOLVER.STAGE2.EVAL_PERIOD": 1,
    "MODEL.METRIC_LOSS_TYPE": "triplet_center",
    "TEST.BEFORE_TRAINING": True,
    "CHECKPOINT_MINUTES": 0.0,
}
"""Both stages, every kind of state: two optimisers, centers, batch norm, an evaluation in between."""
TIMES = {"seconds", "images_per_second"}


def start_driver():
    """The process that takes orders; close its standard input to end it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.run_driver"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


class Runs:
    """Runs of one configuration in ``folder``."""

    def __init__(self, driver, hands, folder, name="ViT-Tiny-16", **options):
        self.driver, self.folder = driver, folder
        self.file = write_config(hands, folder, name)
        self.options = LONG | {key.replace("__", "."): value for key, value in options.items()}

    def __call__(self, at=0, act="", where="", script="train", **more):
        options = self.options | {key.replace("__", "."): value for key, value in more.items()}
        argv = ["--config_file", str(self.file), *(str(word) for pair in options.items() for word in pair)]
        order = {"script": script, "argv": argv, "at": at, "where": where, "act": act}
        self.driver.stdin.write(json.dumps(order).encode() + b"\n")
        self.driver.stdin.flush()
        return json.loads(self.driver.stdout.readline())

    def numbers(self):
        """``metrics.json`` without what a clock measured."""
        content = json.loads((self.folder / "metrics.json").read_text())
        entries = [*content.pop("history"), *content.pop("results").values()]
        return [{key: value for key, value in entry.items() if key not in TIMES} for entry in entries]

    def weights(self):
        return {path.name: torch.load(path, weights_only=True) for path in sorted(self.folder.glob("*.pth"))}

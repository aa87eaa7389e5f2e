"""Arguments of training and test, readable without torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from configs.main_keys import TEST_KEYS, TRAINING_KEYS
from utils.console.arguments import parse_arguments

TRAINING = "Train a method. CLIP-ReID: stage 1 learns a prompt for each identity, stage 2 fine-tunes the image encoder."
TRAINING_EXAMPLES = (
    "python train_clipreid.py --config_file configs/hand/demo.yml",
    "python train_clipreid.py --config_file configs/hand/vit_clipreid.yml DATASETS.ROOT_DIR data/hands "
    "OUTPUT_DIR output/hand/mine",
)

TEST = "Evaluate a trained model on the query and gallery images of a data set."
TEST_EXAMPLES = (
    "python test_clipreid.py --config_file configs/hand/demo.yml TEST.WEIGHT output/hand/demo/RN-Small_16.pth",
    "python test_clipreid.py --config_file configs/hand/demo.yml TEST.WEIGHT output/hand/demo/RN-Small_16.pth "
    "TEST.RE_RANKING True",
)


def training_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """``config_file`` and ``opts`` of train_clipreid.py."""
    return parse_arguments("python train_clipreid.py", TRAINING, TRAINING_EXAMPLES, TRAINING_KEYS, argv)


def test_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """``config_file`` and ``opts`` of test_clipreid.py."""
    return parse_arguments("python test_clipreid.py", TEST, TEST_EXAMPLES, TEST_KEYS, argv)

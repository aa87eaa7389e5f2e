"""Measure the peak memory and the processor time of ISP's clustering pass at Market-1501's size, by its recipe.

    python -m tests.benchmarks.clustering
    python -m tests.benchmarks.clustering --identities 20 300 64 --json clustering.json

Random weights and images. The images of one identity are held at a time, so the largest identity sets the peak, and
Market-1501's has 72 images. By default its last images come in a batch with those of the next identity.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs import load_config
from model import DataFacts, make_model
from model.base import Progress
from processor.training.train_set import PlainImages
from tests.benchmarks.machine import Peak, describe
from utils.compute.device import Precision
from utils.console.arguments import make_parser

RECIPE = "configs/person/isp.yml"
IDENTITIES = (57, 72, 127)
TRAINING_IMAGES = 12_936
"""Of Market-1501: there is a map of labels for each."""


class RandomImages(Dataset):
    """As many images of each identity as ``identities`` says, one after the other."""

    def __init__(self, identities: Sequence[int], size: Sequence[int]) -> None:
        self.size = size
        self.records = [SimpleNamespace(pid=pid) for pid, count in enumerate(identities) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        image = torch.randn(3, *self.size, generator=torch.Generator().manual_seed(index))
        return {"images": image, "labels": self.records[index].pid, "index": index}


def measure(identities: Sequence[int], options: Sequence[str] = ()) -> dict[str, float]:
    """GB of the process at the peak of the pass, and above what it held before; processor seconds."""
    cpu = torch.device("cpu")
    words = ("MODEL.PRETRAIN_CHOICE", "random", "MODEL.DEVICE", "cpu", *options)
    cfg, _ = load_config(RECIPE, list(words))
    torch.manual_seed(0)
    method = make_model(cfg, DataFacts(len(identities), images=max(TRAINING_IMAGES, sum(identities))))
    loader = DataLoader(RandomImages(identities, cfg.INPUT.SIZE_TRAIN), batch_size=cfg.TEST.IMS_PER_BATCH)
    images = PlainImages(method, loader, Precision(cpu, torch.float32))
    start = time.process_time()
    with Peak(cpu) as peak, torch.no_grad():
        method.begin_epoch(images, Progress(2, 1))
    return {"GB": peak.total, "GB above": peak.above, "processor seconds": time.process_time() - start}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("python -m tests.benchmarks.clustering", __doc__)
    parser.add_argument(
        "--identities", metavar="N", nargs="+", type=int, default=IDENTITIES, help="images of each, in turn"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    found = measure(options.identities) | {"identities": list(options.identities)}
    if options.json:
        options.json.write_text(json.dumps(found | describe(torch.device("cpu")), indent=1) + "\n")
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()

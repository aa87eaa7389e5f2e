"""Measure how many test images of each backbone are embedded in a second, in float32 and in reduced precision.

    python -m tests.benchmarks.inference
    python -m tests.benchmarks.inference --names ViT-B-16 RN50 --size 256x128 --json results.json

The variants of a backbone take turns: TEST.PRECISION fp32 and bf16, each with SOLVER.CHANNELS_LAST False and True.
Weights are random. Images/s are those of the shortest of the repeats, ratios those of the shortest and of the median.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median

import torch

from configs import load_config
from model import DataFacts, make_model, set_execution
from model.base import Batch, Method
from tests.benchmarks.machine import describe, finish
from utils.compute.device import choose_precision
from utils.compute.memory import keep_freed_memory
from utils.console.arguments import make_parser

NAMES = (
    *("ViT-B-16", "RN50", "vit_base_patch16_224", "resnet50", "osnet_x1_0", "autoreid", "cdnet", "hrnet_w32"),
    "timm/tf_efficientnet_lite0",
)
VARIANTS = tuple(product(("fp32", "bf16"), (False, True)))
"""TEST.PRECISION and SOLVER.CHANNELS_LAST."""
BAR = 2.0
"""Images/s in bf16, the faster format, as a multiple of those in float32, the faster format."""


def variant(name: str, size: Sequence[int], channels_last: bool, device: torch.device) -> Method:
    """The baseline on a backbone, ready for a test."""
    keys = {
        **{"MODEL.METHOD": "baseline", "MODEL.NAME": name, "MODEL.PRETRAIN_CHOICE": "random", "SOLVER.STAGES": "[2]"},
        **{"INPUT.SIZE_TRAIN": str(list(size)), "INPUT.SIZE_TEST": str(list(size))},
        "SOLVER.CHANNELS_LAST": str(channels_last),
    }
    cfg, _ = load_config("configs/hand/vit_base.yml", [word for pair in keys.items() for word in pair])
    model = make_model(cfg, DataFacts(2)).to(device).eval()
    set_execution(cfg, model)
    return model


@torch.no_grad()
def seconds(model: Method, images: torch.Tensor, precision: str) -> float:
    """Of one batch."""
    start = time.perf_counter()
    with choose_precision(precision, images.device).autocast():
        model.test_feature(Batch(images))
    finish(images.device)
    return time.perf_counter() - start


def measure(name: str, size: Sequence[int], batch: int, repeats: int, device: torch.device) -> dict[str, object]:
    """Images/s of each variant and the gain of bf16."""
    models = {last: variant(name, size, last, device) for last in (False, True)}
    images = torch.randn(batch, 3, *size, device=device)
    found: dict[tuple[str, bool], list[float]] = {key: [] for key in VARIANTS}
    for turn in range(repeats + 1):  # the first turn warms up
        for precision, last in VARIANTS:
            taken = seconds(models[last], images, precision)
            found[precision, last] += [taken] if turn else []
    rates = {f"{p}{' channels last' if last else ''}": batch / min(found[p, last]) for p, last in VARIANTS}
    best = {p: min((found[p, last] for last in (False, True)), key=min) for p in ("fp32", "bf16")}
    gain = min(best["fp32"]) / min(best["bf16"])
    return {"name": name, **rates, "gain": gain, "median gain": median(best["fp32"]) / median(best["bf16"])}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m tests.benchmarks.inference", __doc__)
    parser.add_argument("--names", metavar="NAME", nargs="+", default=NAMES, help="backbones (default: all)")
    parser.add_argument("--size", metavar="HxW", default="256x128", help="of the images (default: %(default)s)")
    parser.add_argument("--batch", metavar="N", type=int, default=64, help="images (default: %(default)s)")
    parser.add_argument("--repeats", metavar="N", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--threads", metavar="N", type=int, help="threads (default: as torch chooses)")
    parser.add_argument("--device", metavar="NAME", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers here")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the scripts do
    device, size = torch.device(options.device), [int(side) for side in options.size.split("x")]
    machine, rows = describe(device), []
    sys.stdout.write(f"{machine}\n{'':>28} fp32  fp32 cl     bf16  bf16 cl     gain median\n")
    for name in options.names:
        rows.append(row := measure(name, size, options.batch, options.repeats, device))
        numbers = "".join(f"{value:9.1f}" for value in list(row.values())[1:5])
        verdict = "" if row["gain"] >= BAR else "MISSED"
        sys.stdout.write(f"{name:>24}{numbers}{row['gain']:9.2f}{row['median gain']:7.2f} {verdict}\n")
        sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

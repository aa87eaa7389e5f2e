"""Measure processor seconds of a training and a test image of each method, and count its parameters.

    python -m tests.benchmarks.methods --output methods.json
    python -m tests.benchmarks.methods --output methods.json --methods horeid pat --size 256x128

Each method has its recipe for persons, random weights, float32 and one thread. A step on the baseline is measured in
turn with each step of a method, so that a busy machine slows both. Rows of the output file are not measured
again: the same command resumes, and prints the table. Ratios are to `baseline`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from yacs.config import CfgNode

from configs import load_config
from model import DataFacts, check_method, make_model
from model.backbones.registry import make_backbone
from model.base import Batch, Method, Progress
from processor.training.train_step import Encoder, TrainStep
from solver import make_optimizers
from tests.benchmarks.machine import describe
from utils.compute.device import Precision
from utils.console.arguments import make_parser

BASELINE = "baseline"
CONVOLUTIONAL = (
    *("pcb", "mgn", "osnet", "abdnet", "cdnet", "horeid", "cbdb_net", "cal", "pat", "autoreid"),
    *("mba_net", "gpa_net", "laga_net", "rga_net", "isp", "san"),
)
TRANSFORMERS = ("transreid_base", "transreid", "dcal", "aaformer", "promptsg", "clip_reident", "cilp_fgdi")
ON_CLIP = ("clipreid", "handid", "pcl", "tfmemory")
NAMES = (BASELINE, *CONVOLUTIONAL, *TRANSFORMERS, *ON_CLIP)
RECIPES = {BASELINE: "resnet50_base"} | {name: f"vit_{name}" for name in ON_CLIP}
IDENTITIES = 751
"""Of Market-1501, whose classifiers count among the parameters."""

CHANGES = {
    "pcb": {"MODEL.PCB.STRIPES": "overlap"},
    "mgn": {"INPUT.SIZE_TRAIN": "[288, 128]", "INPUT.SIZE_TEST": "[288, 128]"},
    "san": {"DATASETS.TEXTURES": "drawn at random here"},
}
"""Where 256 rows cannot be divided, and what has to be named."""

CPU = Precision(torch.device("cpu"), torch.float32)
POINTS = 17
DOMAINS = 2


@dataclass
class Row:
    """One method. Seconds are of the processor, for an image; ``parameters`` are in millions, those of a test too."""

    method: str
    size: list[int]
    train_seconds: float
    test_seconds: float
    baseline_train_seconds: float
    baseline_test_seconds: float
    parameters: float
    tested_parameters: float
    feature: int


def recipe_of(name: str) -> str:
    """The recipe for persons that is measured."""
    return f"configs/person/{RECIPES.get(name, name)}.yml"


class Measured:
    """A method with its recipe and a batch, ready for steps."""

    def __init__(self, name: str, size: Sequence[int], batch: int) -> None:
        words = {"INPUT.SIZE_TRAIN": list(size), "INPUT.SIZE_TEST": list(size), "MODEL.PRETRAIN_CHOICE": "random"}
        words |= CHANGES.get(name, {})
        self.cfg, _ = load_config(recipe_of(name), [str(word) for pair in words.items() for word in pair])
        check_method(self.cfg)
        torch.manual_seed(0)
        self.size = list(self.cfg.INPUT.SIZE_TRAIN)
        self.batch = _random_batch(self.cfg, batch)
        facts = DataFacts(IDENTITIES, views=DOMAINS, images=batch, sentence="A photo of a {} person.", sources=DOMAINS)
        self.method = make_model(self.cfg, facts)
        _fill(self.method)
        self.tested = type(self.method).build(self.cfg, make_backbone(self.cfg), facts, training=False)
        optimizers = make_optimizers(self.cfg, self.method, 2)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        folder = Path(tempfile.gettempdir())
        self.step = TrainStep(self.method, Encoder(self.method, CPU), optimizers, scaler, CPU, 0.0, list, folder)

    def train(self) -> float:
        """Processor seconds of one step, for an image."""
        self.method.train()
        at = Progress(2, self.cfg.SOLVER.STAGE2.MAX_EPOCHS, 1)  # every loss has begun by then
        return _seconds(lambda: self.step(self.batch, at)) / len(self.batch.images)

    @torch.no_grad()
    def test(self) -> float:
        """Processor seconds of the test feature of an image, mirror image included where the recipe sums it."""
        self.tested.eval()
        return _seconds(lambda: self.tested.test_feature(self.batch, self.cfg.TEST.FLIP)) / len(self.batch.images)


def _random_batch(cfg: CfgNode, count: int) -> Batch:
    """Two images of each identity, from two sources in turn, with what a method may read besides."""
    height, width = cfg.INPUT.SIZE_TRAIN
    rows = torch.arange(count)
    extra = {
        "keypoints": torch.rand(count, POINTS, 3) * torch.tensor([width, height, 1]),
        "geometry": torch.eye(2, 3).expand(count, 2, 3),
        "erased": torch.zeros(count, 4),
        "source": rows // 2 % DOMAINS,
        "texture": 2 * torch.rand(count, 3, height, 2 * width if cfg.MODEL.SAN.DOUBLE_WIDTH else width) - 1,
    }
    return Batch(torch.randn(count, 3, height, width), rows // 2, views=rows // 2 % DOMAINS, index=rows, extra=extra)


@torch.no_grad()
def _fill(method: Method) -> None:
    """Random values for what a method computes before an epoch: texts of all identities, ISP's labels of pixels."""
    for name, buffer in method.named_buffers():
        if name.startswith(method.resume_only):
            buffer.normal_() if buffer.is_floating_point() else buffer.random_(2)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def millions(method: Method) -> float:
    """Parameters."""
    return sum(parameter.numel() for parameter in method.parameters()) / 1e6


def measure(name: str, size: Sequence[int], batch: int, steps: int) -> Row:
    """One method beside the baseline, in turns; the first step of each warms up."""
    own, other = Measured(name, size, batch), Measured(BASELINE, size, batch)
    trained = [(own.train(), other.train()) for _ in range(steps + 1)][1:]
    tested = [(own.test(), other.test()) for _ in range(steps + 1)][1:]
    train, baseline_train = map(median, zip(*trained, strict=True))
    test, baseline_test = map(median, zip(*tested, strict=True))
    feature = own.tested.test_feature(own.batch).shape[1]
    numbers = (train, test, baseline_train, baseline_test, millions(own.method), millions(own.tested))
    return Row(name, own.size, *numbers, feature)


def table(rows: Sequence[dict]) -> str:
    """The rows for reading, in Markdown."""
    lines = ["| method | training ms | test ms | of the baseline's | parameters, in a test | feature |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        ratios = (row[f"{part}_seconds"] / row[f"baseline_{part}_seconds"] for part in ("train", "test"))
        cells = [row["method"], *(f"{1e3 * row[f'{part}_seconds']:.0f}" for part in ("train", "test"))]
        cells.append(", ".join(f"{ratio:.2f}" for ratio in ratios))
        cells.append(f"{row['parameters']:.1f}, {row['tested_parameters']:.1f} M")
        lines.append(f"| {' | '.join([*cells, format(row['feature'], ',')])} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("python -m tests.benchmarks.methods", __doc__)
    parser.add_argument("--output", type=Path, required=True, help="file of the rows; finished ones are kept")
    parser.add_argument("--methods", metavar="NAME", nargs="+", choices=NAMES, default=NAMES, help="default: all")
    parser.add_argument("--size", default="256x128", help="height and width")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="measured of each; one more warms up")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    size = [int(side) for side in options.size.split("x")]
    found = json.loads(options.output.read_text()) if options.output.is_file() else {"rows": []}
    for name in options.methods:
        if name not in [row["method"] for row in found["rows"]]:
            found["rows"].append(asdict(measure(name, size, options.batch, options.steps)))
            found["machine"] = describe(torch.device("cpu")) | {"threads": 1}
            options.output.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{json.dumps(found.get('machine'))}\n{table(found['rows'])}\n")


if __name__ == "__main__":
    main()

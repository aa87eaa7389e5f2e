"""Measure how fast both stages train, on the plain path and on the fast one, side by side in one run.

    python -m tests.benchmarks.training --config_file configs/hand/vit_clipreid.yml
    python -m tests.benchmarks.training --config_file configs/hand/cnn_clipreid.yml --task stage2 --batch 128 --compile
    python -m tests.benchmarks.training --config_file configs/hand/demo.yml --task loader --own-data SOLVER.SEED 1

The fast path is what the configuration says. The plain path is float32 without cache, with all 77 tokens of a sentence
for each image of a batch and an optimizer without fused kernels, and else the same. Each runs in a process of its own
through the project's own stages, one epoch in turn, so that a busy machine slows both; the first epoch warms up.
Numbers are medians over the epochs. Weights are random; photographs are drawn unless --own-data.

waiting: share of the time that is spent waiting for the loader. GB: peak of the whole process (CPU) or of the GPU's
tensors, model and optimizer included. TFLOP: operations of a step's products, as executed. product: GFLOP/s of a bare
matrix product of the same precision, measured in the same turns; share: how much of that the step reaches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from yacs.config import CfgNode

from configs import load_config
from datasets import make_dataloader, make_dataset
from model import make_model, set_execution
from model.base import Method, Stage
from model.methods.clipreid import CLIPReID
from processor import do_train_stage1, do_train_stage2
from processor.runs.folder import flatten
from processor.runs.run import Run
from processor.training.training_loop import Scheduler
from solver import make_optimizers, make_scheduler
from tests.benchmarks.machine import Peak, describe, product_flops
from tests.benchmarks.photos import drawn_photos
from tests.model.whole_prompts import encode_whole
from train_clipreid import facts_of
from utils.compute.device import choose_device, choose_precision
from utils.compute.memory import keep_freed_memory
from utils.compute.seed import seed_everything
from utils.console.arguments import make_parser

PATHS = ("plain", "fast")
PLAIN = (
    *("SOLVER.PRECISION", "fp32", "DATASETS.CACHE", "none", "SOLVER.COMPILE", "False"),
    *("SOLVER.CHANNELS_LAST", "False", "SOLVER.GRAD_CHECKPOINTING", "False", "SOLVER.STAGE2.MICRO_BATCHES", "1"),
)
ALWAYS = ("MODEL.PRETRAIN_CHOICE", "random", "MODEL.PRETRAIN_PATH", "")
NEVER = 10**6


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def _cpu_attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: object, **___: object) -> int:
    # Five products, of which the forward pass has two.
    return sdpa_flop_count(query, key, value) * 5 // 2


_attention = "_scaled_dot_product_flash_attention_for_cpu"
ATTENTION = {
    getattr(torch.ops.aten, _attention): _cpu_attention,
    getattr(torch.ops.aten, f"{_attention}_backward"): _cpu_attention_backward,
}
"""What torch's counter does not know."""


@dataclass
class Epoch:
    """What one path reports after its turn. Seconds are of the whole epoch."""

    seconds: float
    iterations: int
    images: int
    waiting: float
    peak_gb: float | None
    flops: int
    product: float
    precision: str
    loss: float | None


@dataclass
class Row:
    """One line of the table: a task on a path."""

    task: str
    path: str
    precision: str
    step_seconds: float
    images_per_second: float
    waiting: float
    peak_gb: float | None
    step_tflop: float | None
    gflops: float | None
    product_gflops: float
    share: float | None
    losses: list[float] = field(default_factory=list)


class Unsaved(Run):
    """A run that keeps no state: writing a gigabyte each epoch would be measured too."""

    def save(self, position: tuple, parts: dict) -> None:
        self.position = position


class Stopped(Exception):
    """Raised when enough has been measured."""


class Clocked:
    """A loader that counts its batches and the time until each comes."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.reset()

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        batches = iter(self.loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waiting += time.perf_counter() - start
            if batch is None:
                return
            self.iterations += 1
            yield batch

    def reset(self) -> None:
        self.waiting, self.iterations = 0.0, 0


class Turns:
    """A scheduler that the stage steps at the start of each epoch: there it reports and waits for its next turn."""

    def __init__(self, pipe: Connection, run: Run, loader: Clocked, batch: int, scheduler: Scheduler | None) -> None:
        self.pipe, self.run, self.loader, self.batch, self.scheduler = pipe, run, loader, batch, scheduler
        self.measured = ExitStack()
        self.flops = 0
        self.epoch = 0.0

    def schedule(self, epoch: float, base: float) -> float:
        """As the scheduler's."""
        return self.scheduler.schedule(epoch, base) if self.scheduler is not None else base

    def step(self, epoch: int) -> None:
        if epoch > 1:
            self.measured.close()
            if epoch == 2:
                self.flops = self.counter.get_total_flops()
            self.pipe.send(self._report(self.run.history[-1]))
        if self.pipe.recv() == "stop":
            raise Stopped
        if self.scheduler is not None:
            self.scheduler.step(epoch)
        device, dtype = self.run.precision.device, self.run.precision.dtype
        self.product = product_flops(device, dtype, 8192 if device.type == "cuda" else 2048)
        self.loader.reset()
        if epoch == 1:
            self.counter = FlopCounterMode(display=False, custom_mapping=ATTENTION)
            self.measured.enter_context(self.counter)
        self.peak = self.measured.enter_context(Peak(device))

    def _report(self, entry: dict) -> Epoch:
        images = round(entry["images_per_second"] * entry["seconds"])
        precision = str(self.run.precision.dtype).removeprefix("torch.")
        iterations = self.loader.iterations or images // self.batch
        return Epoch(
            entry["seconds"],
            iterations,
            images,
            self.loader.waiting,
            self.peak.total,
            self.flops // iterations,
            self.product,
            precision,
            entry.get("loss"),
        )


def serve(pipe: Connection, file: str, overrides: Sequence[str], path: str, threads: int, images: int) -> None:
    """The process of one path: a turn at a time of the task that the pipe names, until it names none."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as the scripts do
    while (task := pipe.recv()) is not None:
        with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
            more = (*(PLAIN if path == "plain" else ()), "OUTPUT_DIR", folder)
            cfg, _ = load_config(file, [*overrides, *more])
            with suppress(Stopped):
                TASKS[task](Setting(cfg, path, images, pipe))


class Setting:
    """What train_clipreid.py builds before its stages, for one path."""

    def __init__(self, cfg: CfgNode, path: str, images: int, pipe: Connection) -> None:
        self.cfg, self.path, self.pipe = cfg, path, pipe
        precision = choose_precision(cfg.SOLVER.PRECISION, choose_device(cfg.MODEL.DEVICE, cfg.MODEL.DEVICE_ID))
        self.run = Unsaved(precision, Path(cfg.OUTPUT_DIR), flatten(cfg), minutes=float("inf"))
        self.fused = None if path == "fast" else False
        seed_everything(cfg.SOLVER.SEED, cfg.SOLVER.DETERMINISTIC)
        self.dataset = make_dataset(cfg)
        self.dataset.train = self.dataset.train[:images]
        self.loaders = make_dataloader(cfg, self.dataset)

    def model(self) -> Method:
        model = make_model(self.cfg, facts_of(self.cfg, self.dataset)).to(self.run.device)
        set_execution(self.cfg, model)
        model.has_sentences = False  # else a pass over clean images between the epochs counts as operations of a step
        return model

    def turns(self, loader: Clocked, stage: CfgNode, optimizers: Sequence[Optimizer] = ()) -> Turns:
        scheduler = make_scheduler(stage, optimizers) if optimizers else None
        return Turns(self.pipe, self.run, loader, stage.IMS_PER_BATCH, scheduler)


def _stage1(setting: Setting) -> None:
    cfg, model = setting.cfg, setting.model()
    if setting.path == "plain":
        use_whole_prompts(model, cfg.SOLVER.STAGE1.IMS_PER_BATCH)
    loader, optimizers = Clocked(setting.loaders.plain), make_optimizers(cfg, model, 1, setting.fused)
    turns = setting.turns(loader, cfg.SOLVER.STAGE1, optimizers)
    do_train_stage1(cfg, model, model.stages[1], loader, optimizers, turns, setting.run)


def _stage2(setting: Setting) -> None:
    cfg, model = setting.cfg, setting.model()
    optimizers = make_optimizers(cfg, model, 2, setting.fused)
    loader = Clocked(setting.loaders.augmented(2))
    turns = setting.turns(loader, cfg.SOLVER.STAGE2, optimizers)
    objects = (cfg, model, Stage(2), loader, optimizers, turns, setting.run)
    do_train_stage2(*objects, evaluate=lambda: None, plain_loader=setting.loaders.plain)


def _loader(setting: Setting) -> None:
    """Epochs without a network."""
    loader = Clocked(setting.loaders.augmented(2))
    turns = setting.turns(loader, setting.cfg.SOLVER.STAGE2)
    for epoch in count(1):
        turns.step(epoch)
        start, images = time.perf_counter(), 0
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            images += len(batch["images"])
        seconds = time.perf_counter() - start
        setting.run.history.append({"seconds": seconds, "images_per_second": images / seconds})


TASKS: dict[str, Callable[[Setting], None]] = {"stage1": _stage1, "stage2": _stage2, "loader": _loader}


def use_whole_prompts(model: CLIPReID, batch: int) -> None:
    """Let the model encode 77 tokens for each of ``batch`` images, however few identities these are of."""

    def encode_text(labels: Tensor) -> Tensor:
        repeated = labels[torch.arange(batch, device=labels.device) % len(labels)]
        return encode_whole(model, repeated)[: len(labels)]

    model.encode_text = encode_text


def measure(
    file: str,
    overrides: Sequence[str],
    tasks: Sequence[str],
    paths: Sequence[str],
    epochs: int,
    warm_up: int,
    threads: int,
    images: int,
) -> list[Row]:
    """Rows of each task on each path, from ``epochs`` epochs after ``warm_up`` others."""
    spawn = multiprocessing.get_context("spawn")  # a forked process cannot use the threads of OpenMP or a GPU
    pipes, processes = {}, []
    for path in paths:
        pipes[path], theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(theirs, file, overrides, path, threads, images))
        process.start()
        theirs.close()  # so that the end of the process is noticed
        processes.append(process)
    rows = []
    try:
        for task in tasks:
            for pipe in pipes.values():
                pipe.send(task)
            found: dict[str, list[Epoch]] = {path: [] for path in paths}
            for _ in range(warm_up + epochs):
                for path, pipe in pipes.items():
                    pipe.send("go")
                    found[path].append(pipe.recv())
            for path, pipe in pipes.items():
                pipe.send("stop")
                rows.append(_row(task, path, found[path], warm_up))
        for pipe in pipes.values():
            pipe.send(None)
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()
    return rows


def _row(task: str, path: str, found: list[Epoch], warm_up: int) -> Row:
    epochs = found[warm_up:]
    step = median(e.seconds / e.iterations for e in epochs)
    product = max(e.product for e in found)
    flops = epochs[0].flops
    peaks = [e.peak_gb for e in epochs if e.peak_gb is not None]
    return Row(
        task,
        path,
        epochs[0].precision,
        step,
        epochs[0].images / epochs[0].iterations / step,
        median(e.waiting / e.seconds for e in epochs),
        max(peaks) if peaks else None,
        flops / 1e12 if flops else None,
        flops / step / 1e9 if flops else None,
        product / 1e9,
        flops / step / product if flops else None,
        [e.loss for e in found if e.loss is not None],
    )


def pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """The rows of a task on the plain and on the fast path, where both were measured."""
    found = {(row.task, row.path): row for row in rows}
    for row in rows:
        if row.path == "fast" and (row.task, "plain") in found:
            yield found[row.task, "plain"], row


def speedups(rows: Sequence[Row]) -> dict[str, float]:
    """By task, how many times as fast the fast path is."""
    return {fast.task: plain.step_seconds / fast.step_seconds for plain, fast in pairs(rows)}


def differences(rows: Sequence[Row]) -> dict[str, float]:
    """By task, the largest relative difference between the two paths' losses of an epoch."""
    return {
        fast.task: max(abs(a - b) / abs(a) for a, b in zip(plain.losses, fast.losses, strict=True))
        for plain, fast in pairs(rows)
        if fast.losses
    }


def table(rows: Sequence[Row]) -> str:
    """The rows for reading."""
    head = ["task", "path", "precision", "step s", "images/s", "waiting", "GB", "TFLOP", "GFLOP/s", "product", "share"]
    lines = [head] + [
        [
            *(row.task, row.path, row.precision, f"{row.step_seconds:.3f}", f"{row.images_per_second:.1f}"),
            *(f"{100 * row.waiting:.0f}%", _shown(row.peak_gb, "{:.2f}"), _shown(row.step_tflop, "{:.3f}")),
            *(_shown(row.gflops), f"{row.product_gflops:.0f}", _shown(row.share and 100 * row.share, "{:.0f}%")),
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = [" ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
    apart = differences(rows)
    for task, times in speedups(rows).items():
        losses = f", losses at most {apart[task]:.1e} apart" if task in apart else ""
        shown.append(f"{task}: {times:.2f} x as fast{losses}")
    return "\n".join(shown)


def _shown(value: float | None, form: str = "{:.0f}") -> str:
    return "" if value is None else form.format(value)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("python -m tests.benchmarks.training", __doc__)
    parser.add_argument("--config_file", required=True)
    parser.add_argument(
        "--task", metavar="NAME", nargs="+", choices=TASKS, help=", ".join(TASKS), default=["stage1", "stage2"]
    )
    parser.add_argument("--path", metavar="NAME", nargs="+", choices=PATHS, default=PATHS, help=", ".join(PATHS))
    parser.add_argument("--device", default="auto", help="as MODEL.DEVICE")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch of either stage")
    parser.add_argument("--iterations", type=int, default=1, help="in an epoch")
    parser.add_argument("--epochs", type=int, default=3, help="measured; the first ones come on top")
    parser.add_argument("--per-identity", type=int, default=4, help="drawn photographs of each hand")
    parser.add_argument("--photo", default="1600x1200", help="their width and height")
    parser.add_argument("--own-data", action="store_true", help="the configuration's, the first images of it")
    parser.add_argument("--workers", type=int, default=0, help="as DATALOADER.NUM_WORKERS")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="SOLVER.COMPILE on the fast path")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, help="KEY VALUE pairs, last")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    images = options.batch * options.iterations
    overrides = [*ALWAYS, "MODEL.DEVICE", options.device, "DATALOADER.NUM_WORKERS", str(options.workers)]
    for stage in ("STAGE1", "STAGE2"):
        for key, value in (("IMS_PER_BATCH", options.batch), ("MAX_EPOCHS", NEVER), ("CHECKPOINT_PERIOD", NEVER)):
            overrides += [f"SOLVER.{stage}.{key}", str(value)]
    overrides += ["SOLVER.STAGE2.EVAL_PERIOD", str(NEVER), "SOLVER.COMPILE", str(options.compile)]
    with ExitStack() as stack:
        if not options.own_data:
            width, height = map(int, options.photo.split("x"))
            root = stack.enter_context(drawn_photos(images, options.per_identity, (width, height)))
            overrides += ["DATASETS.NAMES", "hand", "DATASETS.ROOT_DIR", str(root)]
        overrides += options.overrides
        warm_up = 2 if options.compile else 1  # the epoch whose FLOPs are counted is not compiled
        rows = measure(
            *(
                options.config_file,
                overrides,
                options.task,
                options.path,
                options.epochs,
                warm_up,
                options.threads,
                images,
            )
        )
    machine = describe(choose_device(options.device)) | {"threads": options.threads}
    sys.stdout.write(f"{json.dumps(machine)}\n{table(rows)}\n")
    if options.json:
        settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
        found = {"machine": machine, "settings": settings, "rows": [asdict(row) for row in rows]}
        found |= {"speedups": speedups(rows), "loss_differences": differences(rows)}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

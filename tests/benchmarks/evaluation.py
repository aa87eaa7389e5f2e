"""Measure time and memory of evaluation and re-ranking, beside the bare matrix product in the same run.

    python -m tests.benchmarks.evaluation --size market
    python -m tests.benchmarks.evaluation --size market msmt17 million --json results.json
    python -m tests.benchmarks.evaluation --size eighth quarter half market --device cuda

Features are random clusters (one per identity) with noise; a small --spread makes an easy data set. Ratios are to the
product of the same shapes, made 1,024 rows at a time and thrown away; those of the task "cosine" are to the evaluation
of the same unit features by Euclidean distances, in float32. Memory is the peak above the features. Where others use
the machine too, look at the ratio of the processor times with --threads 1 ("cpu").
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.machine import Peak, describe, finish
from utils.arguments import make_parser
from utils.metrics import Features, evaluate, evaluate_distances
from utils.reranking import k_reciprocal


@dataclass(frozen=True)
class Size:
    """Images and people of a data set, and the bars: (ratio to the product, GB above the features)."""

    queries: int
    gallery: int
    identities: int
    width: int = 1280
    bar: tuple[float, float] | None = None
    rerank_bar: tuple[float, float] | None = None


MARKET = Size(3368, 15913, 751, bar=(2.5, 0.5), rerank_bar=(4, 1.5))
SIZES = {
    "eighth": Size(3368 // 8, 15913 // 8, 751 // 8),
    "quarter": Size(3368 // 4, 15913 // 4, 751 // 4),
    "half": Size(3368 // 2, 15913 // 2, 751 // 2),
    "market": MARKET,
    "msmt17": Size(11659, 82161, 3060, bar=(3, 1.5), rerank_bar=(6, 6)),
}


TASKS = ("evaluate", "cosine", "rerank")


@dataclass
class Row:
    """One line of the table. Seconds are the best of the repeats."""

    size: str
    task: str
    queries: int
    gallery: int
    seconds: float
    product_seconds: float | None
    ratio: float | None
    cpu_ratio: float | None
    peak_gb: float | None
    bar: tuple[float | None, float] | None
    mAP: float

    @property
    def verdict(self) -> str:
        if self.bar is None or self.peak_gb is None:
            return ""
        fast = self.bar[0] is None or self.ratio <= self.bar[0]
        return "ok" if fast and self.peak_gb <= self.bar[1] else "MISSED"


def _seconds(work: Callable[[], object], device: torch.device) -> tuple[float, float, object]:
    """Seconds by the clock, seconds of processor time, result."""
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    finish(device)
    return time.perf_counter() - start, time.process_time() - cpu, result


def _product(a: torch.Tensor, b: torch.Tensor) -> None:
    for part in a.split(1024):
        part @ b.T


def clusters(size: Size, spread: float, device: torch.device, seed: int = 0) -> tuple[Features, Features]:
    """Unit features around one centre per identity, six cameras."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(size.identities, size.width, generator=random)
    splits = []
    for count in (size.queries, size.gallery):
        pids = torch.randint(size.identities, (count,), generator=random)
        features = torch.randn(count, size.width, generator=random).mul_(spread)
        for part, ids in zip(features.split(4096), pids.split(4096), strict=True):
            torch.nn.functional.normalize(part.add_(centres[ids]), out=part)
        cameras = torch.randint(6, (count,), generator=random)
        splits.append(Features(features.to(device), pids, cameras))
    return splits[0], splits[1]


def measure(name: str, spread: float, repeats: int, tasks: list[str], device: torch.device) -> list[Row]:
    """Evaluation and re-ranking of one size, each next to its product."""
    size = SIZES[name]
    query, gallery = clusters(size, spread, device)
    rows = []
    if "evaluate" in tasks:
        work = lambda: evaluate(query, gallery)  # noqa: E731
        product = lambda: _product(query.features, gallery.features)  # noqa: E731
        rows.append(_compare(name, "evaluate", size, work, product, size.bar, repeats, device))
    if "cosine" in tasks:
        work = lambda: evaluate(query, gallery, metric="cosine")  # noqa: E731
        in_float32 = lambda: evaluate(query, gallery)  # noqa: E731
        rows.append(_compare(name, "cosine", size, work, in_float32, None, repeats, device))
    if "rerank" in tasks:
        both = torch.cat([query.features, gallery.features])

        def work() -> object:
            distances = k_reciprocal(query.features, gallery.features)
            return evaluate_distances(distances, query.pids, gallery.pids, query.camids, gallery.camids)

        product = lambda: _product(both, both)  # noqa: E731
        rows.append(_compare(name, "rerank", size, work, product, size.rerank_bar, repeats, device))
    return rows


def _compare(
    name: str,
    task: str,
    size: Size,
    work: Callable[[], object],
    product: Callable[[], object],
    bar: tuple[float, float] | None,
    repeats: int,
    device: torch.device,
) -> Row:
    """Product and work in turn, so that a busy machine slows both."""
    times, peaks = [], []
    for _ in range(repeats):
        *product_times, _ = _seconds(product, device)
        with Peak(device) as peak:
            *work_times, found = _seconds(work, device)
        times.append(product_times + work_times)
        peaks.append(peak.above)
    product_seconds, product_cpu, seconds, cpu = np.min(times, axis=0).tolist()
    return Row(
        name,
        task,
        size.queries,
        size.gallery,
        seconds,
        product_seconds,
        seconds / product_seconds,
        cpu / product_cpu,
        None if peaks[0] is None else max(peaks),
        bar,
        found.mAP,
    )


def million(spread: float, device: torch.device) -> Row:
    """5,000 queries against 1,000,000 x 512 half-precision features in a file; memory is all of the process's."""
    size = Size(5000, 1_000_000, 20_000, 512)
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(size.identities, size.width, generator=random)
    pids = torch.randint(size.identities, (size.gallery,), generator=random)
    wanted = torch.randint(size.identities, (size.queries,), generator=random)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.npy"
        shape = (size.gallery, size.width)
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        for start in range(0, size.gallery, 10_000):
            ids = pids[start : start + 10_000]
            noise = torch.randn(len(ids), size.width, generator=random) * spread
            file[start : start + 10_000] = (centres[ids] + noise).numpy()
        file.flush()
        del file
        query = centres[wanted] + spread * torch.randn(size.queries, size.width, generator=random)
        one = torch.zeros(size.gallery, dtype=torch.int64)
        gallery = Features(np.load(path, mmap_mode="r"), pids, one)
        queries = Features(query.to(device), wanted, one[: size.queries] + 1)
        with Peak(device) as peak:
            seconds, _, found = _seconds(lambda: evaluate(queries, gallery), device)
    shape = size.queries, size.gallery
    return Row("million", "evaluate", *shape, seconds, None, None, None, peak.total, (None, 2.0), found.mAP)


def table(rows: list[Row]) -> str:
    """The rows for reading."""
    head = ["size", "task", "shape", "s", "product s", "ratio", "cpu", "bar", "GB", "bar", "mAP", ""]
    lines = [head]
    for row in rows:
        bar = row.bar or (None, None)
        numbers = [row.seconds, row.product_seconds, row.ratio, row.cpu_ratio, bar[0], row.peak_gb, bar[1], row.mAP]
        text = ["" if n is None else f"{n:.2f}" for n in numbers]
        lines.append([row.size, row.task, f"{row.queries} x {row.gallery}", *text, row.verdict])
    widths = [8, 9, 16, 8, 10, 6, 6, 5, 6, 5, 5, 6]
    return "\n".join(" ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)) for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("python -m tests.benchmarks.evaluation", __doc__)
    parser.add_argument("--size", nargs="+", choices=[*SIZES, "million"], default=["market"])
    parser.add_argument("--task", nargs="+", choices=TASKS, default=["evaluate", "rerank"])
    parser.add_argument("--repeats", type=int, default=2, help="the best time counts")
    parser.add_argument("--spread", type=float, default=3.0, help="noise around the centre of an identity")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in options.size:
        if name == "million":
            rows.append(million(options.spread, device))
        else:
            rows += measure(name, options.spread, options.repeats, options.task, device)
    sys.stdout.write(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads\n{table(rows)}\n")
    if options.json:
        found = {"machine": describe(device), "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

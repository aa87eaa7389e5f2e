"""Measure time and memory of evaluation and re-ranking, beside the bare matrix product in the same run.

    python -m tests.benchmarks.evaluation --size market
    python -m tests.benchmarks.evaluation --size market msmt17 million --json results.json
    python -m tests.benchmarks.evaluation --size market --task rerank --spread 1 3 4 --features raw unit
    python -m tests.benchmarks.evaluation --size half --task dense --repeats 1
    python -m tests.benchmarks.evaluation --size eighth quarter half market --device cuda

Features are random clusters (one per identity) with noise, of length 1 ("unit") or as they are ("raw"); a small
--spread makes an easy data set. Ratios are to the product of the same shapes, made 1,024 rows at a time and thrown
away. Those of the task "cosine" are to the evaluation of the same unit features by Euclidean distances, in float32;
those of "dense", to re-ranking with full matrices. The work and what it is compared with take turns; ratios are given
of the least times, and as the median over the repeats. Memory is the peak above the features. Where others use the
machine too, look at the ratio of the processor times with --threads 1 ("cpu").
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.machine import Peak, describe, finish
from utils.compute.memory import keep_freed_memory
from utils.console.arguments import make_parser
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


DENSE_BAR = (0.1, 1.5)
"""Of re-ranking, as a share of the time that full matrices take; GB as above."""

MARKET = Size(3368, 15913, 751, bar=(1.25, 0.5), rerank_bar=(2.5, 1.5))
SIZES = {
    "eighth": Size(3368 // 8, 15913 // 8, 751 // 8),
    "quarter": Size(3368 // 4, 15913 // 4, 751 // 4),
    "half": Size(3368 // 2, 15913 // 2, 751 // 2),
    "market": MARKET,
    "msmt17": Size(11659, 82161, 3060, bar=(1.25, 1.5), rerank_bar=(4, 6)),
}


TASKS = ("evaluate", "cosine", "rerank", "dense")


@dataclass
class Row:
    """One line of the table. Seconds, and the ratios made of them, are the best of the repeats."""

    size: str
    task: str
    features: str
    spread: float
    queries: int
    gallery: int
    seconds: float
    product_seconds: float | None
    ratio: float | None
    median_ratio: float | None
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


def dense_reranking(
    query: torch.Tensor, gallery: torch.Tensor, k1: int = 50, k2: int = 15, weight: float = 0.3
) -> object:
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017, section 3) as described: full matrices, image by image."""
    x = torch.cat([query, gallery]).numpy()
    norms = (x**2).sum(1)
    distances = norms[:, None] + norms - 2 * x @ x.T
    distances /= distances.max(1, keepdims=True)
    order = np.argsort(distances, axis=1)

    def mutual(item: int, k: int) -> np.ndarray:
        near = order[item, : k + 1]
        return near[(order[near, : k + 1] == item).any(1)]

    encoding = np.zeros_like(distances)
    for item in range(len(x)):
        members = own = mutual(item, k1)
        for friend in own:
            half = mutual(int(friend), round(k1 / 2))
            if len(np.intersect1d(half, own)) > 2 / 3 * len(half):
                members = np.append(members, half)
        members = np.unique(members)
        weights = np.exp(-distances[item, members])
        encoding[item, members] = weights / weights.sum()
    encoding = np.stack([encoding[near[:k2]].mean(0) for near in order])
    having = [encoding[:, item].nonzero()[0] for item in range(len(x))]
    result = (weight * distances[: len(query)]).astype(np.float32)
    for item in range(len(query)):
        shared = np.zeros(len(x), np.float32)
        for column in encoding[item].nonzero()[0]:
            shared[having[column]] += np.minimum(encoding[item, column], encoding[having[column], column])
        result[item] += (1 - weight) * (1 - shared / (2 - shared))
    return result[:, len(query) :]


def clusters(
    size: Size, spread: float, device: torch.device, seed: int = 0, unit: bool = True
) -> tuple[Features, Features]:
    """Features around one centre per identity, of length 1 if ``unit``; six cameras."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(size.identities, size.width, generator=random)
    splits = []
    for count in (size.queries, size.gallery):
        pids = torch.randint(size.identities, (count,), generator=random)
        features = torch.randn(count, size.width, generator=random).mul_(spread)
        for part, ids in zip(features.split(4096), pids.split(4096), strict=True):
            part.add_(centres[ids])
            if unit:
                torch.nn.functional.normalize(part, out=part)
        cameras = torch.randint(6, (count,), generator=random)
        splits.append(Features(features.to(device), pids, cameras))
    return splits[0], splits[1]


def measure(name: str, kind: str, spread: float, repeats: int, tasks: list[str], device: torch.device) -> list[Row]:
    """Evaluation and re-ranking of one size and kind of features, each next to its product."""
    size = SIZES[name]
    query, gallery = clusters(size, spread, device, unit=kind == "unit")

    def reranked() -> object:
        distances = k_reciprocal(query.features, gallery.features)
        return evaluate_distances(distances, query.pids, gallery.pids, query.camids, gallery.camids)

    both = torch.cat([query.features, gallery.features])
    works: dict[str, tuple[Callable[[], object], Callable[[], object], tuple[float, float] | None]] = {
        "evaluate": (
            lambda: evaluate(query, gallery),
            lambda: _product(query.features, gallery.features),
            size.bar,
        ),
        "cosine": (lambda: evaluate(query, gallery, metric="cosine"), lambda: evaluate(query, gallery), None),
        "rerank": (reranked, lambda: _product(both, both), size.rerank_bar),
        "dense": (
            reranked,
            lambda: dense_reranking(query.features.cpu(), gallery.features.cpu()),
            size.rerank_bar and DENSE_BAR,
        ),
    }
    rows = []
    for task in tasks:
        work, other, bar = works[task]
        (seconds, other_seconds, ratio, median, cpu), peak, found = _compare(work, other, repeats, device)
        figures = seconds, other_seconds, ratio, median, cpu, peak, bar, found.mAP
        rows.append(Row(name, task, kind, spread, size.queries, size.gallery, *figures))
    return rows


def _compare(
    work: Callable[[], object], other: Callable[[], object], repeats: int, device: torch.device
) -> tuple[list[float], float | None, object]:
    """Both in turns, so that a busy machine slows both: seconds of each, ratio, median ratio and ratio of processor
    times; GB at the peak; the result.
    """
    times, peaks = [], []
    for _ in range(repeats):
        *other_times, _ = _seconds(other, device)
        with Peak(device) as peak:
            *work_times, found = _seconds(work, device)
        times.append(other_times + work_times)
        peaks.append(peak.above)
    other_seconds, other_cpu, seconds, cpu = np.min(times, axis=0).tolist()
    median = float(np.median([t[2] / t[0] for t in times]))
    numbers = [seconds, other_seconds, seconds / other_seconds, median, cpu / other_cpu]
    return numbers, None if peaks[0] is None else max(peaks), found


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
    return Row(
        "million",
        "evaluate",
        "raw",
        spread,
        *shape,
        seconds,
        None,
        None,
        None,
        None,
        peak.total,
        (None, 2.0),
        found.mAP,
    )


def table(rows: list[Row]) -> str:
    """The rows for reading."""
    head = [
        "size",
        "task",
        "features",
        "spread",
        "shape",
        "s",
        "other s",
        "ratio",
        "median",
        "cpu",
        "bar",
        "GB",
        "bar",
        "mAP",
        "",
    ]
    lines = [head]
    for row in rows:
        bar = row.bar or (None, None)
        ratios = [row.ratio, row.median_ratio, row.cpu_ratio]
        numbers = [row.seconds, row.product_seconds, *ratios, bar[0], row.peak_gb, bar[1], row.mAP]
        text = ["" if n is None else f"{n:.2f}" for n in numbers]
        shape = f"{row.queries} x {row.gallery}"
        lines.append([row.size, row.task, row.features, f"{row.spread:g}", shape, *text, row.verdict])
    widths = [8, 9, 9, 6, 16, 8, 8, 6, 6, 6, 5, 6, 5, 5, 6]
    return "\n".join(" ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)) for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("python -m tests.benchmarks.evaluation", __doc__)
    sizes = [*SIZES, "million"]
    parser.add_argument("--size", metavar="NAME", nargs="+", choices=sizes, default=["market"], help=", ".join(sizes))
    parser.add_argument(
        "--task", metavar="NAME", nargs="+", choices=TASKS, default=["evaluate", "rerank"], help=", ".join(TASKS)
    )
    parser.add_argument("--repeats", type=int, default=3, help="the best time counts")
    parser.add_argument("--spread", type=float, nargs="+", default=[3.0], help="noise around the centre of an identity")
    parser.add_argument(
        "--features", metavar="KIND", nargs="+", choices=["unit", "raw"], default=["unit"], help="unit, raw"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the scripts do
    rows: list[Row] = []
    for name in options.size:
        if name == "million":
            rows += [million(spread, device) for spread in options.spread]
            continue
        for kind, spread in product(options.features, options.spread):
            rows += measure(name, kind, spread, options.repeats, options.task, device)
    sys.stdout.write(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads\n{table(rows)}\n")
    if options.json:
        found = {"machine": describe(device), "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Measure time and memory of biometric performance on 10^8 comparisons.

    python -m tests.benchmarks.biometric
    python -m tests.benchmarks.biometric --images 2000 --width 128 --json results.json

Features are random clusters, one per identity. The bars are for 10^8 comparisons of 512 numbers on two cores: error
rates with DET, open set and templates together below 30 s, each below 1.5 GB above the features. Bootstrap and
calibration are timed by themselves.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.machine import Peak, describe
from utils.biometric.bootstrap.replicates import resample_identification, resample_verification
from utils.biometric.bootstrap.subjects import Subjects, draw_people
from utils.biometric.comparisons import Crossing
from utils.biometric.open_set import search_features
from utils.biometric.scores.calibration import calibrate
from utils.biometric.templates import choose_images, mean_features
from utils.biometric.verification import verify, verify_comparisons
from utils.console.arguments import make_parser
from utils.metrics import Features

SECONDS, GIGABYTES = 30.0, 1.5
TOGETHER = ("error rates", "open set", "templates")


def clusters(images: int, people: int, width: int, spread: float, seed: int = 0) -> tuple[Features, Features]:
    """Query and gallery of ``images`` each: unit features around one centre per identity."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(people, width, generator=random)
    parts = []
    for _ in range(2):
        pids = torch.randint(people, (images,), generator=random)
        features = torch.empty(images, width)
        for rows in torch.arange(images).split(4096):
            noise = spread * torch.randn(len(rows), width, generator=random)
            features[rows] = torch.nn.functional.normalize(centres[pids[rows]] + noise)
        parts.append(Features(features, pids, torch.zeros_like(pids)))
    return parts[0], parts[1]


def tasks(query: Features, gallery: Features, people: int) -> dict[str, Callable[[], float]]:
    """Each measure as a function that returns one of its figures."""

    def error_rates() -> float:
        found = verify(query, gallery)
        return float(len(found.curve.far) and found.eer)

    def open_set() -> float:
        enrolled = gallery.pids % 3 > 0
        found = search_features(query.features, query.pids, gallery.features[enrolled], gallery.pids[enrolled])
        return float(found.fnir([found.threshold_at(0.01)])[0])

    def templates() -> float:
        chosen = choose_images(gallery.pids, 4)
        enrolled = Features(mean_features(gallery.features, chosen), chosen.pids, torch.zeros_like(chosen.pids))
        return verify_comparisons(Crossing(query, enrolled).blocks, None, (1e-3,)).eer

    def bootstrap() -> float:
        crossing = Crossing(query, gallery)
        subjects = Subjects(query.pids, gallery.pids, people)
        drawn = draw_people(people, 200)
        counted = verify(query, gallery).scores
        measures = resample_verification(crossing.blocks, subjects, counted, drawn, (1e-3,))
        measures |= resample_identification(crossing.blocks, subjects, drawn, "standard")
        return float(np.ptp(np.quantile(measures["EER"], [0.025, 0.975])))

    def calibration() -> float:
        block = next(iter(Crossing(query, gallery, chunk_size=min(200, len(query))).blocks()))
        scores = (block.scores[block.same].numpy(), block.scores[~block.same].numpy())
        return calibrate(*scores).slope

    return {
        "error rates": error_rates,
        "open set": open_set,
        "templates": templates,
        "bootstrap, 200 replicates": bootstrap,
        "calibration, 2 x 10^6 pairs": calibration,
    }


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("python -m tests.benchmarks.biometric", __doc__)
    parser.add_argument("--images", type=int, default=10_000, help="queries, and gallery images")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--spread", type=float, default=3.0, help="noise around the centre of an identity")
    parser.add_argument("--task", nargs="+", help="beginnings of the tasks' names; all by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    query, gallery = clusters(options.images, options.people, options.width, options.spread)
    rows = []
    for name, work in tasks(query, gallery, options.people).items():
        if options.task and not name.startswith(tuple(options.task)):
            continue
        with Peak(torch.device("cpu")) as peak:
            start, cpu = time.perf_counter(), time.process_time()
            figure = work()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        rows.append({"task": name, "seconds": seconds, "cpu_seconds": cpu, "gb": peak.above, "figure": figure})
        sys.stdout.write(f"{name:<28} {seconds:7.1f} s {cpu:7.1f} s cpu {peak.above or 0:6.2f} GB   {figure:.6f}\n")
    together, cpu = (sum(row[key] for row in rows if row["task"] in TOGETHER) for key in ("seconds", "cpu_seconds"))
    most = max((row["gb"] or 0 for row in rows if row["task"] in TOGETHER), default=0)
    verdict = "ok" if together <= SECONDS and most <= GIGABYTES else "MISSED"
    sys.stdout.write(
        f"{', '.join(TOGETHER)}: {together:.1f} s ({cpu:.1f} s cpu) of {SECONDS:g}, {most:.2f} GB of {GIGABYTES:g}: "
        f"{verdict}\n"
    )
    if options.json:
        found = {"machine": describe(torch.device("cpu")), "rows": rows, "verdict": verdict}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Measure what the learned sentences add: CLIP-ReID against its controls, with few and many images.

    python -m tests.benchmarks.text --output output/text
    python -m tests.benchmarks.text --output output/text --images 2 --arms none clipreid --seeds 1 2 --minutes 30

A row is one arm (a recipe of configs/hand/text), a number of training images for each identity, and a seed, which also
draws hands of its own for training and test. The command skips finished rows, resumes an interrupted one, starts none
after --minutes, and writes text.md: mAP of each arm, its difference to the arm without text and that of the right
sentences to it, with the 95 % intervals of a hierarchical bootstrap over seeds and test people, and the rows that are
left with their commands. The recipe is
to be chosen on other hands (--split validation). The hypothesis was written down before: text helps at 2 to 4 images,
and more than the mean image features of the start do (centroids).

Keys behind the options hold for all rows: with CLIP's weights and photographs the same table is

    python -m tests.benchmarks.text --output output/text_clip --arms none clipreid shuffled centroids coop --of 15 \\
        MODEL.NAME ViT-B-16 MODEL.PRETRAIN_CHOICE imagenet INPUT.SIZE_TRAIN "[224, 224]" INPUT.SIZE_TEST "[224, 224]" \\
        DATASETS.NAMES hand_11k DATASETS.ROOT_DIR data/11k_hands SOLVER.STAGE1.BASE_LR 3.5e-4 \\
        SOLVER.STAGE1.MAX_EPOCHS 60 SOLVER.STAGE2.BASE_LR 5e-6 SOLVER.STAGE2.FREEZE transformer.resblocks.5
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import train_clipreid
from configs import load_config
from model import check_method
from processor.compare import Job, finished, split_overrides
from processor.runs.folder import RunFolder, flatten
from utils.biometric.bootstrap.subjects import Difference, difference, resample_means
from utils.console.arguments import make_parser
from utils.console.terminal import show
from utils.files.checkpoint import write_text

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "hand" / "text"
ARMS = ("none", "clipreid", "shuffled", "centroids", "coop", "one_stage", "m1", "m8")
"""The arms that answer the most important questions come first; `clipreid` has four learned tokens."""

IMAGES = (2, 4, 10)
SEEDS = tuple(range(1, 11))
HANDS = {"test": 100_000, "validation": 200_000}
"""By split, what is added to a row's seed to draw its hands. The small CLIP's own hands have another seed."""

STOPPED = 3


class Row(NamedTuple):
    """One line of the plan."""

    images: int
    seed: int
    arm: str


class Plan(NamedTuple):
    """All rows of a table and how each is run.

    Attributes:
        output: folder of all runs.
        split: which hands are drawn, a name in :data:`HANDS`.
        of: images that an identity of the whole training set has.
        overrides: keys and values for all rows.
    """

    output: Path
    split: str
    of: int
    overrides: Sequence[str]

    def job(self, row: Row) -> Job:
        """The run of a row."""
        folder = self.output / f"images{row.images}" / row.arm / f"seed{row.seed}"
        cfg, _ = load_config(RECIPES / f"{row.arm}.yml", self.keys(row, folder))
        check_method(cfg)
        return Job(row.arm, RECIPES / f"{row.arm}.yml", row.seed, folder, flatten(cfg))

    def keys(self, row: Row, folder: Path) -> list[str]:
        """Keys and values of a row; what the user names comes last but for the folder."""
        own = {
            "SOLVER.SEED": row.seed,
            "DATASETS.SYNTHETIC.SEED": HANDS[self.split] + row.seed,
            "DATASETS.SYNTHETIC.IMAGES_PER_ID": self.of,
            "DATASETS.TRAIN_FRACTION": min(1.0, row.images / self.of),
            "DATASETS.TRAIN_FRACTION_BY": "images",
            "DATASETS.TRAIN_FRACTION_SEED": row.seed,
        }
        return [*(str(word) for pair in own.items() for word in pair), *self.overrides, "OUTPUT_DIR", str(folder)]

    def command(self, images: int, arm: str, seeds: Sequence[int]) -> str:
        """What runs the rows of an arm that are left."""
        words = ["python", "-m", "tests.benchmarks.text", "--output", str(self.output), "--images", str(images)]
        words += ["--arms", *(("none", arm) if arm != "none" else (arm,)), "--seeds", *map(str, seeds)]
        words += ["--split", self.split] if self.split != "test" else []
        words += ["--of", str(self.of)] if self.of != max(IMAGES) else []
        return " ".join(shlex.quote(word) for word in (*words, *self.overrides))


def train(job: Job, keys: Sequence[str]) -> int:
    """Run a row in this process, whose packages are loaded; the exit status."""
    return train_clipreid.main(["--config_file", str(job.file), *keys])


def gain(first: Mapping[int, RunFolder], second: Mapping[int, RunFolder]) -> Difference | None:
    """Difference in mAP over the seeds that both have, within each seed paired by its own people; None without any.

    Seeds are drawn, and people within them: each seed has people of its own, so the differences are resampled.
    """
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    replicates = [_replicates(second[seed]) - _replicates(first[seed]) for seed in seeds]
    found = np.mean([second[seed].result["mAP"] - first[seed].result["mAP"] for seed in seeds]) / 100
    shortest = min(map(len, replicates))
    changes = np.array([values[:shortest] for values in replicates])
    return difference(np.zeros_like(changes), changes, mean=float(found))


def _replicates(run: RunFolder) -> np.ndarray:
    """mAP [B] of resampled test people, of query and gallery where the run kept them."""
    kept = run.replicates().get("Error rates: mAP")
    if kept is not None:
        return kept
    queries = run.queries() or {}
    return resample_means(queries["average_precision"], queries["identity"])


def table(plan: Plan, rows: Sequence[Row], done: Mapping[Row, RunFolder]) -> str:
    """The page: a table for each number of images, and the rows that are left."""
    lines = ["# What sentences are worth", ""]
    for images in dict.fromkeys(row.images for row in rows):
        by_arm: dict[str, dict[int, RunFolder]] = {}
        for row, run in done.items():
            if row.images == images:
                by_arm.setdefault(row.arm, {})[row.seed] = run
        lines += [f"## {images} images of each training identity", ""]
        lines += [
            "| arm | seeds | mAP | Rank-1 | mAP against no text | clipreid against it "
            "| own sentence nearest: stage 1, 1st epoch |"
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_line(arm, by_arm) for arm in dict.fromkeys(row.arm for row in rows) if arm in by_arm]
        starts = [run.metrics["results"].get("untrained") for run in by_arm.get("none", {}).values()]
        if starts and all(starts):
            means = _spread(starts, "mAP"), _spread(starts, "Rank-1")
            lines += [f"| the start, untrained | {len(starts)} | {' | '.join(means)} | | | |"]
        lines += [""]
    left = [row for row in rows if row not in done]
    lines += [
        f"Percent, mean ± standard deviation over the seeds; {len(done)} rows are done, {len(left)} are left.",
        "",
    ]
    groups: dict[tuple[int, str], list[int]] = {}
    for row in left:
        groups.setdefault((row.images, row.arm), []).append(row.seed)
    commands = [plan.command(images, arm, seeds) for (images, arm), seeds in groups.items()]
    return "\n".join([*lines, *(["```bash", *commands, "```", ""] if commands else [])])


def _line(arm: str, by_arm: Mapping[str, Mapping[int, RunFolder]]) -> str:
    runs = by_arm[arm]
    results = [run.result for run in runs.values()]
    change = "" if arm == "none" else _change(by_arm.get("none", {}), runs)
    text = "" if arm in ("none", "clipreid") else _change(runs, by_arm.get("clipreid", {}))
    learned = _nearest(runs.values(), lambda entries: [e for e in entries if e["stage"] == 1][-1:])
    left = _nearest(runs.values(), lambda entries: [e for e in entries if e["stage"] == 2 and e["epoch"] == 1])
    near = ", ".join(filter(None, (learned, left)))
    means = _spread(results, "mAP"), _spread(results, "Rank-1")
    return "| " + " | ".join((arm, str(len(runs)), *means, change, text, near)) + " |"


def _change(first: Mapping[int, RunFolder], second: Mapping[int, RunFolder]) -> str:
    found = gain(first, second)
    return "" if found is None else f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _spread(results: Sequence[Mapping], measure: str) -> str:
    values = [result[measure] for result in results]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _nearest(runs: Sequence[RunFolder], choose: Callable[[list[dict]], list[dict]]) -> str:
    """Mean ``sentence_accuracy`` of the chosen epochs."""
    entries = [entry for run in runs for entry in choose(run.metrics["history"])]
    values = [entry["sentence_accuracy"] for entry in entries if "sentence_accuracy" in entry]
    return f"{100 * np.mean(values):.0f}" if values else ""


def run_rows(
    plan: Plan,
    rows: Sequence[Row],
    minutes: float = np.inf,
    run: Callable[[Job, Sequence[str]], int] = train,
) -> tuple[dict[Row, RunFolder], int]:
    """Run what is not finished until the time is over; the finished rows, and the status of a row that failed."""
    end, done, status = time.monotonic() + 60 * minutes, {}, 0
    for number, row in enumerate(rows, 1):
        job = plan.job(row)
        found = finished(job)
        if found is None and not status and time.monotonic() < end:
            show(f"row {number} of {len(rows)}: {row.images} images, {row.arm}, seed {row.seed}")
            status = run(job, plan.keys(row, job.folder))
            found = finished(job)
        if found is not None:
            done[row] = found
            write_text(plan.output / "text.md", table(plan, rows, done))
    return done, status


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or that of the row that failed or was stopped."""
    parser = make_parser("python -m tests.benchmarks.text", __doc__)
    add = parser.add_argument
    add("--output", metavar="FOLDER", type=Path, default=Path("output/text"), help="of all runs (default: %(default)s)")
    add("--arms", metavar="NAME", nargs="+", choices=ARMS, default=list(ARMS), help=f"recipes: {', '.join(ARMS)}")
    add("--images", metavar="N", nargs="+", type=int, default=list(IMAGES), help="training images of each identity")
    add("--seeds", metavar="N", nargs="+", type=int, default=list(SEEDS), help="seeds of the runs and of their hands")
    add("--split", choices=HANDS, default="test", help="hands for the table, or for choosing a recipe")
    add("--of", metavar="N", type=int, default=max(IMAGES), help="images an identity of the training set has")
    add("--minutes", metavar="M", type=float, default=np.inf, help="start no row after so many")
    options, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    given = parser.parse_args(options)
    plan = Plan(given.output, given.split, given.of, overrides)
    rows = [Row(n, seed, arm) for n in given.images for seed in given.seeds for arm in given.arms]
    done, status = run_rows(plan, rows, given.minutes)
    text = table(plan, rows, done)
    write_text(plan.output / "text.md", text)
    show(text.rstrip())
    return status


if __name__ == "__main__":
    sys.exit(main())

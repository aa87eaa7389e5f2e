"""The benchmark of sentences: its rows, its statistics, and resuming."""

import json
import shlex

import numpy as np
import pytest
import yaml

from configs import load_config
from model.clip.hands_clip import DRAWING_SEED, hands_weights
from processor.compare import split_overrides
from processor.runs.folder import read_run
from tests.benchmarks import text
from tests.benchmarks.text import Plan, Row, gain, run_rows, table

PEOPLE, QUERIES = 12, 3
BEFORE = ("MODEL.PRETRAIN_CHOICE", "random")


def precisions(row):
    """Average precisions of made-up people; text adds 0.05 and noise of its own."""
    people = np.random.default_rng(row.seed).uniform(0.3, 0.7, PEOPLE)
    chance = np.random.default_rng((row.seed, *map(ord, row.arm))).normal(0, 0.02, PEOPLE)
    return np.repeat(people + (0.05 + chance if row.arm != "none" else 0), QUERIES)


def write_run(job, row):
    """The files of a finished training."""
    job.folder.mkdir(parents=True)
    tree = {}
    for key, value in job.settings.items():
        *groups, leaf = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    (job.folder / "config.yml").write_text(yaml.safe_dump(tree))
    values = precisions(row)
    numbers = {"mAP": 100 * float(values.mean()), "Rank-1": 50.0, "Rank-5": 60.0, "Rank-10": 70.0, "mINP": 9.5}
    numbers |= {"queries": len(values), "queries_without_match": 0, "seconds": 1.0, "weights": "random start"}
    numbers |= {"dataset": "hand", "model": "RN-Small", "method": "clipreid"}
    history = [{"stage": 1, "epoch": 1, "sentence_accuracy": 0.5}, {"stage": 2, "epoch": 1, "sentence_accuracy": 0.25}]
    results = {"untrained": numbers | {"mAP": 40.0}, "trained": numbers}
    content = {"seconds": 5.0, "history": history if row.arm != "none" else [], "results": results, "environment": {}}
    (job.folder / "metrics.json").write_text(json.dumps(content))
    names = np.array([f"{i}.png" for i in range(len(values))])
    identity = np.repeat([f"p{i}" for i in range(PEOPLE)], QUERIES)
    np.savez(job.folder / "queries.npz", path=names, identity=identity, average_precision=values)


@pytest.fixture
def plan(tmp_path):
    return Plan(tmp_path / "text", "test", 10, BEFORE)


def rows_of(*arms, images=(2,), seeds=(1, 2, 3)):
    return [Row(n, seed, arm) for n in images for seed in seeds for arm in arms]


def runner(rows, calls):
    def run(job, keys):
        row = rows[len(calls)]
        assert job.folder.parts[-3:] == (f"images{row.images}", row.arm, f"seed{row.seed}")
        calls.append(keys)
        write_run(job, row)
        return 0

    return run


def test_each_row_has_its_hands_its_images_and_its_seed(plan):
    one, other = (plan.job(Row(n, seed, "shuffled")).settings for n, seed in ((2, 3), (10, 4)))
    assert one["DATASETS.SYNTHETIC.SEED"] != other["DATASETS.SYNTHETIC.SEED"]
    assert (one["DATASETS.TRAIN_FRACTION"], other["DATASETS.TRAIN_FRACTION"]) == (0.2, 1.0)
    assert (one["SOLVER.SEED"], one["MODEL.TEXT_CONTROL"], one["MODEL.PRETRAIN_CHOICE"]) == (3, "shuffled", "random")
    validation = plan._replace(split="validation").job(Row(2, 3, "shuffled")).settings
    assert validation["DATASETS.SYNTHETIC.SEED"] != one["DATASETS.SYNTHETIC.SEED"]


@pytest.mark.parametrize("arm", text.ARMS)
def test_arms_differ_from_no_text_only_in_the_guidance_of_images(plan, arm):
    first, own = (plan.job(Row(2, 1, name)).settings for name in ("none", arm))
    allowed = ("MODEL.METHOD", "MODEL.PROMPT", "MODEL.TEXT_", "MODEL.ONE_STAGE", "MODEL.COOP.", "SOLVER.STAGES")
    assert all(key.startswith((*allowed, "OUTPUT_DIR")) for key in own if own[key] != first[key])


def test_a_row_that_is_finished_is_read_and_what_is_left_has_its_command(plan):
    rows, calls = rows_of("none", "clipreid"), []
    done, status = run_rows(plan, rows[:4], run=runner(rows, calls))
    assert len(done) == len(calls) == 4 and not status
    done, _ = run_rows(plan, rows, minutes=0, run=runner(rows, calls))
    assert len(done) == len(calls) == 4
    page = (plan.output / "text.md").read_text()
    assert "4 rows are done, 2 are left" in page and "| clipreid | 2 |" in page and "| 50, 25 |" in page
    assert "| the start, untrained | 2 | 40.0 ± 0.0" in page
    assert f"--output {plan.output} --images 2 --arms none clipreid --seeds 3 MODEL.PRETRAIN_CHOICE random" in page
    other = plan._replace(overrides=(*BEFORE, "SOLVER.STAGE2.BASE_LR", "0.5"))
    assert not run_rows(other, rows, minutes=0)[0], "a row of another recipe is not finished"


def test_a_failed_row_ends_the_command_with_its_status(plan):
    calls = []
    done, status = run_rows(plan, rows_of("none"), run=lambda job, keys: calls.append(job) or 2)
    assert (done, status, len(calls)) == ({}, 2, 1)


def test_the_difference_is_that_of_a_slow_hierarchical_bootstrap(plan):
    rows = rows_of("none", "clipreid", seeds=range(1, 7))
    for row in rows:
        write_run(plan.job(row), row)
    runs = {arm: {r.seed: read_run(plan.job(r).folder) for r in rows if r.arm == arm} for arm in ("none", "clipreid")}
    found = gain(runs["none"], runs["clipreid"])
    changes = [precisions(Row(2, s, "clipreid")) - precisions(Row(2, s, "none")) for s in range(1, 7)]
    by_person = np.array([change.reshape(PEOPLE, QUERIES).mean(1) for change in changes])
    random = np.random.default_rng(5)
    slow = []
    for _ in range(4000):
        people = random.integers(PEOPLE, size=PEOPLE)
        slow.append(np.mean([by_person[seed][people].mean() for seed in random.integers(6, size=6)]))
    assert found.mean == pytest.approx(by_person.mean())
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))
    assert gain(runs["none"], {}) is None


def test_right_sentences_are_compared_with_each_other_arm(plan):
    rows = rows_of("none", "clipreid", "shuffled")
    for row in rows:
        write_run(plan.job(row), row)
    done = {row: read_run(plan.job(row).folder) for row in rows}
    runs = {arm: {row.seed: run for row, run in done.items() if row.arm == arm} for arm in ("clipreid", "shuffled")}
    found = gain(runs["shuffled"], runs["clipreid"])
    lines = {line.split(" | ")[0]: line.split(" | ") for line in table(plan, rows, done).splitlines() if "|" in line}
    assert lines["| shuffled"][5] == f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    assert lines["| none"][4] == lines["| none"][5] == lines["| clipreid"][5] == ""


def test_the_page_names_the_split_that_is_left(plan):
    page = table(plan._replace(split="validation"), rows_of("coop", seeds=(4,)), {})
    assert "--arms none coop --seeds 4 --split validation" in page


def test_the_start_was_trained_on_other_hands():
    arm, _ = load_config(text.RECIPES / "none.yml")
    assert arm.MODEL.PRETRAIN_CHOICE == "hands" and hands_weights(arm).is_file()
    drawn = {first + seed for first in text.HANDS.values() for seed in text.SEEDS}
    assert DRAWING_SEED not in drawn and len(drawn) == len(text.HANDS) * len(text.SEEDS)


def test_the_documented_command_for_clips_weights_is_accepted(tmp_path):
    page = (text.RECIPES.parents[2] / "docs" / "text.md").read_text()
    (command,) = [block for block in page.split("```") if "ViT-B-16" in block and block.startswith("bash")]
    words = shlex.split(command.removeprefix("bash").replace("\\\n", " "))
    _, overrides = split_overrides(words)
    job = Plan(tmp_path, "test", 15, overrides).job(Row(2, 1, "clipreid"))
    assert job.settings["MODEL.NAME"] == "ViT-B-16" and job.settings["SOLVER.STAGE2.FREEZE"] in command


def test_recipes_of_the_arms_are_there():
    assert {path.stem for path in text.RECIPES.glob("*.yml")} == set(text.ARMS)
    assert all(yaml.safe_load(path.read_text()) for path in text.RECIPES.glob("*.yml"))

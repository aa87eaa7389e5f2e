"""Comparisons: what is run, what is only read, what is refused, and the numbers of the table."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import processor.compare as command
import train_clipreid
from processor.compare import Job, check_comparable, compare, finished, plan, split_overrides
from processor.reports.comparison import as_csv, as_markdown, difference, summarise
from processor.runs.folder import RunFolder
from tests.toy_hands import write_config
from utils.biometric.bootstrap.subjects import REPLICATES, draw_people
from utils.console.interrupt import InterruptedRunError
from utils.errors import ReIDError

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["SOLVER.STAGES", "[2]"]


def configs(hands, folder, **methods):
    """Files ``<name>.yml`` with the configuration of a run of a second and further keys."""
    files = []
    for name, keys in methods.items():
        file = write_config(hands, folder / name)
        file.write_text(file.read_text().replace("MODEL: {", f"MODEL: {{{keys}, "))
        files.append(file)
    return files


def call(files, output, *words, seeds=(1, 2), **how):
    command_line = [sys.executable, "-m", "processor.compare", "--configs", *map(str, files)]
    command_line += ["--seeds", *map(str, seeds), "--output", str(output), *QUICK, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command_line, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how
    )


def end(process):
    said, log = process.communicate(timeout=300)
    return process.returncode, said, log


def times(output):
    return {path: path.stat().st_mtime_ns for path in sorted(output.glob("*/*/metrics.json"))}


def in_process(job, overrides):
    """A run in this process: the others would spend their time on imports."""
    own = [*overrides, "SOLVER.SEED", str(job.seed), "OUTPUT_DIR", str(job.folder)]
    assert train_clipreid.main(["--config_file", str(job.file), *own]) == 0
    return ""


def test_a_stopped_run_resumes_and_a_finished_one_is_only_read(hands, tmp_path, capsys):
    files = configs(hands, tmp_path, baseline="METHOD: baseline", tfmemory="METHOD: tfmemory")
    output, started = tmp_path / "out", []

    def until_the_third(job, overrides):
        started.append(str(job))
        if len(started) == 3:
            raise InterruptedRunError(str(job))
        return in_process(job, overrides)

    with pytest.raises(InterruptedRunError):
        compare(files, [1, 2], output, QUICK, until_the_third)
    before = times(output)
    assert started == ["baseline, seed 1", "tfmemory, seed 1", "baseline, seed 2"] and len(before) == 2
    compare(files, [1, 2], output, QUICK, in_process)
    after = times(output)
    assert len(after) == 4 and before.items() <= after.items(), "what was finished is not run again"
    capsys.readouterr()
    compare(files, [1, 2], output, QUICK, lambda *_: pytest.fail("everything is finished"))
    said = capsys.readouterr().out
    assert times(output) == after

    content = json.loads((output / "comparison.json").read_text())
    assert [(run["name"], run["seed"]) for run in content["runs"]] == [
        (name, seed) for name in ("baseline", "tfmemory") for seed in (1, 2)
    ]
    with (output / "comparison.csv").open() as file:
        table = list(csv.DictReader(file))
    for name, row in zip(("baseline", "tfmemory"), table, strict=True):
        metrics = [json.loads((output / name / f"seed{seed}" / "metrics.json").read_text()) for seed in (1, 2)]
        values = [m["results"]["trained"]["mAP"] for m in metrics]
        assert float(row["mAP"]) == pytest.approx(statistics.mean(values))
        assert float(row["mAP std"]) == pytest.approx(statistics.stdev(values))
        assert int(row["parameters trained"]) == metrics[0]["parameters_trained"] > 0
        assert row["weights"] == "random start" and row["method"] == name
    assert said == (output / "comparison.md").read_text() and "| tfmemory | random start | 2 |" in said


@pytest.mark.slow
def test_a_run_that_breaks_leaves_the_others(hands, tmp_path):
    files = configs(hands, tmp_path, broken="METHOD: baseline, STAGE1_WEIGHT: gone.pth", baseline="METHOD: baseline")
    status, said, log = end(call(files, tmp_path / "out", seeds=[1]))
    assert status == 2 and "Traceback" not in log
    assert "1 of 2 runs failed" in log and "MODEL.STAGE1_WEIGHT = 'gone.pth'" in log
    assert "| baseline | random start | 1 |" in said and "Failed: broken, seed 1" in said


@pytest.mark.slow
def test_a_signal_stops_the_run_too(hands, tmp_path):
    (file,) = configs(hands, tmp_path, baseline="METHOD: baseline")
    process = call([file], tmp_path / "out", "SOLVER.STAGE2.MAX_EPOCHS", "500", seeds=[1])
    log = tmp_path / "out" / "baseline" / "seed1" / "train_log.txt"
    while not (log.is_file() and "epoch 2/500" in log.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    status, _, said = end(process)
    assert status == 3 and "the same command " in said
    assert "stopped at stage 2" in log.read_text()


def test_different_data_or_protocols_are_refused(hands, tmp_path):
    a, b = configs(hands, tmp_path, a="METHOD: baseline", b="METHOD: pcl")
    b.write_text(b.read_text().replace("NAMES: hand,", "NAMES: market1501,").replace("TEST: {", "TEST: {FLIP: True, "))
    with pytest.raises(ReIDError) as error:
        plan([a, b], [1], tmp_path / "out", ["SOLVER.STAGES", "[2]"])
    for word in ("DATASETS.NAMES: 'hand' and 'market1501'", "TEST.FLIP: False and True", "a and b"):
        assert word in str(error.value)
    same = ["SOLVER.STAGES", "[2]", "DATASETS.NAMES", "hand", "TEST.FLIP", "True"]
    jobs = plan([a, b], [1, 2], tmp_path / "out", same)
    assert [(job.name, job.seed) for job in jobs] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert not (tmp_path / "out").exists()


def test_a_method_that_cannot_work_is_refused_before_any_run(hands, tmp_path):
    good, bad = configs(hands, tmp_path, good="METHOD: baseline", bad="METHOD: no-such-method")
    with pytest.raises(ReIDError, match=r"bad.yml: MODEL.METHOD = 'no-such-method': choose one of"):
        plan([good, bad], [1], tmp_path / "out", ["SOLVER.STAGES", "[2]"])


def test_what_belongs_to_a_method_may_differ():
    settings = {"TEST.NECK_FEAT": "before", "DATASETS.CACHE_GB": 4.0, "MODEL.METHOD": "pcl"}
    others = {"TEST.NECK_FEAT": "after", "DATASETS.CACHE_GB": 1.0, "MODEL.METHOD": "coop"}
    check_comparable([Job("a", Path("a.yml"), 1, Path("a"), s) for s in (settings, others)])


def test_names_and_seeds_must_be_different(hands, tmp_path):
    (file,) = configs(hands, tmp_path, a="METHOD: baseline")
    with pytest.raises(ReIDError, match="two configurations named a"):
        plan([file, file], [1], tmp_path, [])
    with pytest.raises(ReIDError, match="a seed named twice"):
        plan([file], [1, 1], tmp_path, [])
    with pytest.raises(ReIDError, match=r"SOLVER\.SEED is set for each run; use --seeds"):
        plan([file], [1], tmp_path, ["SOLVER.SEED", "3"])


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ("--configs a.yml B.yml --seeds 1 2 MODEL.NAME RN50 RESUME never", "MODEL.NAME RN50 RESUME never"),
        ("--configs a.yml --output OUT --seeds 1", ""),
        ("--configs a.yml --seeds 1 --output out OUTPUT_DIR x", "OUTPUT_DIR x"),
    ],
)
def test_overrides_begin_with_the_first_key(words, overrides):
    options, found = split_overrides(words.split())
    assert found == overrides.split() and [*options, *found] == words.split()


def test_a_stale_result_is_not_taken_for_a_finished_run(tmp_path, monkeypatch):
    """A run writes its configuration first: numbers that are older belong to another configuration."""
    for name in ("metrics.json", "config.yml"):
        (tmp_path / name).write_text("MODEL: {METHOD: pcl}\nTEST: {FLIP: True}\n")
    row = {"protocol": {"FLIP": True, "NECK_FEAT": "before"}}
    run = RunFolder(tmp_path, {"results": {"trained": row}}, {}, "trained", "")
    monkeypatch.setattr(command, "read_run", lambda folder: run)
    job = Job("a", Path("a.yml"), 1, tmp_path, {"MODEL.METHOD": "pcl", "TEST.FLIP": True, "RESUME": "auto"})
    os.utime(tmp_path / "metrics.json", (1000, 1000))
    assert finished(job) is None
    os.utime(tmp_path / "config.yml", (900, 900))
    assert finished(job) is run
    assert finished(job._replace(settings={"TEST.FLIP": False})) is None, "it has to be tested again"
    assert finished(job._replace(settings={"MODEL.METHOD": "coop"})) is None
    row["protocol"]["FLIP"] = False
    assert finished(job) is None, "a test has written the numbers since; the row is from before the configuration"


class Run(RunFolder):
    def queries(self):
        return self.metrics["queries"]


def made_up(folder, mean, precision, eer=10.0):
    result = {"mAP": mean, "Rank-1": mean + 5, "method": "m", "model": "n", "weights": "random start"}
    result |= {} if eer is None else {"EER": eer, "verification": {"EER": 77.0}}  # of one split
    identity = np.array(["a", "a", "b", "c"])
    queries = {"path": np.array(list("1234")), "identity": identity, "average_precision": np.array(precision)}
    metrics = {"results": {"trained": result}, "seconds": 10.0 + mean, "parameters_trained": 7, "queries": queries}
    return Run(Path(folder), metrics, {}, "trained", "")


def test_means_deviations_and_differences_by_hand():
    runs = {
        "first": {1: made_up("f1", 50, [0.1, 0.2, 0.3, 0.4]), 2: made_up("f2", 60, [0.3, 0.2, 0.5, 0.4], None)},
        "second": {2: made_up("s2", 80, [0.5, 0.9, 0.8, 0.6])},
        "failed": {},
    }
    first, second = summarise(runs)
    assert (first["mAP"], first["Rank-1"], first["seconds"], first["parameters trained"]) == (55, 60, 65, 7)
    assert first["mAP std"] == pytest.approx(statistics.stdev([50, 60])) and first["EER"] is None
    assert second["mAP std"] is None and second["EER"] == 10.0 and first["difference"] is None
    drawn = draw_people(3, REPLICATES)  # the differences of a's queries are 0.2 and 0.7, b's and c's 0.3 and 0.2
    means = drawn @ [0.9, 0.3, 0.2] / (drawn @ [2, 1, 1])
    assert second["difference"]["mean"] == pytest.approx(35)
    assert second["difference"]["low"] == pytest.approx(35 + 100 * (np.quantile(means, 0.025) - means.mean()))
    text = as_markdown([first, second], ["failed, seed 1: status 2"], "Comparison")
    assert "| first | random start | 2 | 55.0 ± 7.1 | 60.0 ± 7.1 | - | 65 | 7 | - |" in text
    assert "| second | random start | 1 | 80.0 | 85.0 | 10.0 | 90 | 7 | +35.0 [" in text
    assert "Failed: failed, seed 1: status 2" in text


def test_error_rates_over_the_seeds_by_hand(monkeypatch):
    runs = {1: made_up("a1", 50, [0.1] * 4), 2: made_up("a2", 60, [0.1] * 4)}
    spread = np.arange(101) / 1000
    replicates = {"Error rates: EER": spread, "Error rates: mAP": 0.9 + spread, "Error rates: TAR at FAR 0.01": spread}
    monkeypatch.setattr(Run, "replicates", lambda run: replicates)
    for run, tar in zip(runs.values(), (80.0, 90.0), strict=True):
        run.result["verification"] = {"TAR at FAR 0.01": tar, "TAR at FAR 0.001": None}
        run.result["verification"] |= {"genuine pairs": 6, "impostor pairs": 3420}
    (row,) = summarise({"a": runs})
    assert (row["TAR at FAR 0.01"], row["TAR at FAR 0.001"], row["impostor pairs"]) == (85.0, None, 3420)
    assert (row["EER low"], row["EER high"]) == pytest.approx((0.25, 9.75), abs=0.1)
    assert (row["mAP low"] + row["mAP high"]) / 2 == pytest.approx(55, abs=0.1), "shifted to the mean"
    assert row["Rank-1 low"] is None
    text = as_markdown([row], [], "Comparison")
    assert f"85.0 ± {statistics.stdev([80, 90]):.1f} [" in text and "| 6 / 3,420 |" in text
    (cells,) = csv.DictReader(as_csv([row]).splitlines())
    assert float(cells["EER high"]) == row["EER high"] and cells["TAR at FAR 0.001"] == ""
    for run in runs.values():
        run.result["runs"] = []
    (row,) = summarise({"a": runs})
    assert row["impostor pairs"] is None and row["EER low"] is None, "of one split"


@pytest.mark.parametrize("kept", [True, False])
def test_runs_without_errors_end_at_the_bound_over_people(monkeypatch, kept):
    runs = {seed: made_up(f"a{seed}", 100, [1.0] * 4, eer=0.0) for seed in (1, 2)}
    none, all_right = np.zeros(100), np.ones(100)
    replicates = {"Error rates: EER": none, "Error rates: mAP": all_right, "Error rates: TAR at FAR 0.01": all_right}
    monkeypatch.setattr(Run, "replicates", lambda run: replicates if kept else {})
    for run in runs.values():
        run.result["verification"] = {"TAR at FAR 0.01": 100.0, "people with genuine pairs": 10}
        run.result["verification"] |= {"genuine pairs": 60, "impostor pairs": 3420}
    rows = summarise({"a": runs, "b": dict(runs)})
    bound = 100 * (1 - 0.05**0.1)  # 25.9 %
    assert (rows[0]["EER low"], rows[0]["EER high"]) == pytest.approx((0, bound))
    assert (rows[0]["mAP low"], rows[0]["mAP high"]) == pytest.approx((100 - bound, 100))
    assert (rows[0]["TAR at FAR 0.01 low"], rows[0]["TAR at FAR 0.01 high"]) == pytest.approx((100 - bound, 100))
    found, of_three = rows[1]["difference"], 100 * (1 - 0.05 ** (1 / 3))  # of the identities a, b, c none differs
    assert (found["low"], found["high"]) == pytest.approx((-of_three, of_three))
    text = as_markdown(rows, [], "Comparison")
    small = as_markdown([rows[0] | {"EER": 0.0017, "EER std": 0.0003}], [], "Comparison")
    assert "| 0.0017 ± 0.00030 |" in small
    assert "| 100.0 ± 0.0 [74.11, 100.00] |" in text and "[0.00, 25.89]" in text and "no spread" not in text


def test_differences_are_between_means_over_the_seeds():
    """By hand: the means of the queries are 0.2, 0.4, 0.3, 0.6 and 0.4, 0.5, 0.6, 0.6; one seed alone gives more."""
    first = {1: made_up("f1", 1, [0.1, 0.2, 0.3, 0.4]), 2: made_up("f2", 1, [0.3, 0.6, 0.3, 0.8])}
    second = {1: made_up("s1", 1, [0.5, 0.5, 0.8, 0.2]), 2: made_up("s2", 1, [0.3, 0.5, 0.4, 1.0])}
    assert difference(first, second)["mean"] == pytest.approx(100 * (0.2 + 0.1 + 0.3 + 0.0) / 4)
    assert difference({1: first[1]}, {1: second[1]})["mean"] == pytest.approx(100 * (0.4 + 0.3 + 0.5 - 0.2) / 4)


def test_paths_of_this_machine_are_in_no_form_of_the_comparison(tmp_path):
    run = made_up(tmp_path / "out" / "a" / "seed1", 50, [0.1] * 4)
    job = Job("a", Path("a.yml"), 1, run.folder, {"DATASETS.NAMES": "hand", "DATASETS.ROOT_DIR": str(tmp_path / "d")})
    failed = [f"b, seed 1: status 2: {tmp_path}/d/x.png: cannot be read ({tmp_path}/out/b/seed1.log)"]
    said = command._write(tmp_path / "out", job, {"a": {1: run}}, failed)
    for name in ("comparison.md", "comparison.csv", "comparison.json"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text(), name
    assert "Failed: b, seed 1: status 2: .../d/x.png: cannot be read (.../out/b/seed1.log)" in said


def test_other_queries_are_not_paired():
    other = made_up("b", 1, [0.0] * 4)
    other.metrics["queries"]["path"] = np.array(list("1235"))
    assert difference({1: made_up("a", 1, [0.0] * 4)}, {1: other}) is None
    assert difference({1: made_up("a", 1, [0.0] * 4)}, {2: made_up("b", 1, [0.0] * 4)}) is None


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_a_run_s_lock_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "run.lock")
    with pytest.raises(ReIDError, match=r"run\.lock: expected the lock file of this folder"):
        command._wait_for(tmp_path)

"""A run that is killed, stopped or out of disk space resumes with the same command and ends as if uninterrupted."""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.run_client import ROOT, Runs
from tests.utils.console.test_folder_lock import HOLDER

KILL = "signal SIGKILL"
KILLED = -signal.SIGKILL


def assert_same(runs, others):
    assert runs.numbers() == others.numbers()
    found, expected = runs.weights(), others.weights()
    assert found.keys() == expected.keys() and len(found) == 4
    for name, state in found.items():
        assert state.keys() == expected[name].keys()
        assert all(torch.equal(tensor, expected[name][key]) for key, tensor in state.items()), name


@pytest.fixture(scope="module")
def whole(driver, hands, tmp_path_factory):
    """The undisturbed run."""
    runs = Runs(driver, hands, tmp_path_factory.mktemp("whole") / "run")
    done = runs()
    assert done["status"] == 0, done["said"]
    return runs


def kill_again_and_again(runs, times, furthest, seed):
    """Kill at the 1st to ``furthest``-th event after each start; the events."""
    rng, events = random.Random(seed), []
    for _ in range(times):
        done = runs(rng.randint(1, furthest), KILL)
        assert done["status"] == KILLED and "Traceback" not in done["said"], done["said"]
        events.append(done["event"])
    done = runs()
    assert done["status"] == 0, done["said"]
    return events


@pytest.mark.slow
def test_killed_twenty_times_at_random(driver, hands, whole, tmp_path):
    runs = Runs(driver, hands, tmp_path / "run")
    events = kill_again_and_again(runs, 20, 22, seed=5)
    assert_same(runs, whole)
    assert len({event.split()[0] for event in events}) > 2, events  # the moments below are each killed at as well
    assert not list(runs.folder.glob("**/.*")), "what the killed runs were writing is cleared away"


@pytest.mark.parametrize("place", ["half a file", "before naming", "after naming", "evaluation", "stage 1", "stage 2"])
def test_killed_at_each_kind_of_moment(driver, hands, whole, tmp_path, place):
    """Early and late; the later one in the resumed run."""
    runs = Runs(driver, hands, tmp_path / "run")
    for at in (1, 2):
        done = runs(at, KILL, place)
        assert done["status"] == KILLED and place in done["event"], done
    assert runs()["status"] == 0
    assert_same(runs, whole)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_and_has_its_own_status(driver, hands, whole, tmp_path, name):
    runs = Runs(driver, hands, tmp_path / "run", CHECKPOINT_MINUTES=10.0)
    done = runs(1, f"signal {name}", "stage 2")
    stopped = "stopped at stage 2 epoch 1/3, iteration 1; saved: the same command resumes there"
    assert done["status"] == 3 and stopped in done["said"], done
    done = runs()
    assert done["status"] == 0 and "resuming at stage 2, epoch 1, 1 iteration done" in done["said"], done["said"]
    assert_same(runs, whole)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_all_processes_saves_in_the_first_epoch(driver, hands, whole, tmp_path, name):
    """Batch systems, ``timeout``, Ctrl-C and a closed terminal: the loader processes receive the signal, too."""
    runs = Runs(driver, hands, tmp_path / "run", CHECKPOINT_MINUTES=10.0, DATALOADER__NUM_WORKERS=1)
    done = runs(1, f"group {name}", "stage 2")
    stopped = "stopped at stage 2 epoch 1/3, iteration 1; saved: the same command resumes there"
    assert done["status"] == 3 and stopped in done["said"] and "Traceback" not in done["said"], done
    assert runs()["status"] == 0
    assert_same(runs, whole)


def test_a_full_disk_leaves_the_last_state(driver, hands, whole, tmp_path):
    runs = Runs(driver, hands, tmp_path / "run")
    done = runs(3, "full", "stage 2")
    assert done["status"] == 2 and "cannot be written" in done["said"] and "Traceback" not in done["said"], done
    assert runs()["status"] == 0
    assert_same(runs, whole)


def test_another_configuration_is_refused_with_its_keys(driver, hands, tmp_path):
    runs = Runs(driver, hands, tmp_path / "run")
    runs(2, KILL, "stage 2")
    kept = (runs.folder / "config.yml").read_bytes()
    done = runs(SOLVER__STAGE2__BASE_LR=0.5)
    assert done["status"] == 2 and "SOLVER.STAGE2.BASE_LR: 0.001 -> 0.5" in done["said"], done["said"]
    assert (runs.folder / "config.yml").read_bytes() == kept


@pytest.mark.parametrize("spoil", ["cut", "flip", "no manifest"])
def test_a_damaged_state_is_named_and_the_one_before_used(driver, hands, whole, tmp_path, spoil):
    runs = Runs(driver, hands, tmp_path / "run")
    runs(6, KILL, "stage 2")
    newest = sorted((runs.folder / "resume").glob("*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    if spoil == "no manifest":
        newest.with_suffix(".json").unlink()
    else:
        newest.write_bytes(content[: len(content) // 2] if spoil == "cut" else content)
    done = runs()
    assert done["status"] == 0 and f"{newest.name} is not used" in done["said"], done["said"]
    assert_same(runs, whole)


def test_a_read_only_folder_leaves_the_last_state(driver, hands, whole, tmp_path):
    runs = Runs(driver, hands, tmp_path / "run")
    for at, place in ((3, "stage 2"), (1, "start")):
        done = runs(at, f"readonly {runs.folder}", place)
        assert done["status"] == 2 and "Permission denied" in done["said"] and "OUTPUT_DIR" in done["said"], done
        assert "Traceback" not in done["said"] and done["said"].count("error: ") == 1, done["said"]
        for folder in (runs.folder, *runs.folder.glob("*/")):
            folder.chmod(0o755)
    done = runs()
    assert done["status"] == 0 and "resuming at stage 2" in done["said"], done["said"]
    assert_same(runs, whole)


def test_a_missing_image_stops_the_run_and_a_restored_one_resumes_it(driver, hands, whole, tmp_path):
    """With loader processes and without them."""
    own = shutil.copytree(hands, tmp_path / "hands")
    victim = next(own.glob("train/*/*.png"))
    content = victim.read_bytes()
    runs = Runs(driver, own, tmp_path / "run", DATASETS__CACHE="none")
    for workers in (0, 1):
        done = runs(1, f"vanish {victim}", "stage 2", DATALOADER__NUM_WORKERS=workers)
        assert done["status"] == 2 and f"{victim}: cannot be read as an image (there is no such file)" in done["said"]
        assert "Traceback" not in done["said"] and done["said"].count("error: ") == 1, done["said"]
        done = runs()
        assert done["status"] == 2 and "23 training images found now. Restore the old ones" in done["said"], done
        victim.write_bytes(content)
    done = runs()
    assert done["status"] == 0 and "resuming at stage 2" in done["said"], done["said"]
    assert_same(runs, whole)


def test_a_killed_loader_process_stops_the_run_which_resumes(driver, hands, whole, tmp_path):
    runs = Runs(driver, hands, tmp_path / "run")
    done = runs(2, "worker", "stage 2 epoch 2", DATALOADER__NUM_WORKERS=1)
    assert done["status"] == 2 and "a process that reads images died" in done["said"], done["said"]
    assert "DATALOADER.NUM_WORKERS" in done["said"] and "Traceback" not in done["said"], done["said"]
    done = runs()
    assert done["status"] == 0 and "resuming at stage 2, epoch 2" in done["said"], done["said"]
    assert_same(runs, whole)


@pytest.mark.parametrize(("precision", "name", "optimizer"), [("bf16", "bfloat16", "Adam"), ("fp16", "float16", "SGD")])
def test_reduced_precision_resumes_within_its_tolerance(driver, hands, tmp_path, precision, name, optimizer):
    """float16 too: the loss scale belongs to the state, otherwise steps would be skipped again."""
    options = {"SOLVER__PRECISION": precision, "SOLVER__STAGE2__OPTIMIZER_NAME": optimizer}
    runs, undisturbed = (Runs(driver, hands, tmp_path / folder, **options) for folder in ("run", "whole"))
    assert undisturbed()["status"] == 0
    assert f"cpu, {name};" in (undisturbed.folder / "train_log.txt").read_text()
    for at, place in ((2, "stage 1"), (4, "stage 2")):
        assert runs(at, KILL, place)["status"] == KILLED
    assert runs()["status"] == 0
    found, expected = runs.weights(), undisturbed.weights()
    assert found.keys() == expected.keys()
    for name, state in found.items():
        for key, tensor in state.items():  # bfloat16 keeps 8 bits, float16 11
            torch.testing.assert_close(tensor, expected[name][key], rtol=2**-7, atol=2**-10, msg=f"{name} {key}")


@pytest.mark.parametrize("kept", [1, 3])
def test_the_configured_number_of_checkpoints_is_kept(driver, hands, tmp_path, kept):
    runs = Runs(driver, hands, tmp_path / "run", CHECKPOINTS_KEPT=kept)
    assert runs(3, KILL, "stage 2")["status"] == KILLED
    names = sorted(path.name for path in (runs.folder / "resume").iterdir())
    assert len(names) == 2 * kept and len({Path(name).stem for name in names}) == kept, names


def test_two_trainings_in_one_folder(driver, hands, whole, tmp_path):
    """The second is stopped, a test is not; after any end of the first one the same command resumes."""
    runs = Runs(driver, hands, tmp_path / "run")
    assert runs(2, KILL, "stage 2")["status"] == KILLED
    before = {path: path.read_bytes() for path in runs.folder.rglob("*.*") if path.name != "run.lock"}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, runs.folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    done = runs()
    assert done["status"] == 2 and f"another training is running there (process {holder.pid})" in done["said"], done
    assert before == {path: path.read_bytes() for path in before}, "the saved state of the first one is unchanged"
    assert runs(script="test", TEST__WEIGHT=next(runs.folder.glob("*stage1_2.pth")))["status"] == 0
    holder.kill()
    holder.wait()
    assert runs()["status"] == 0
    metrics = json.loads((runs.folder / "metrics.json").read_text())
    assert metrics["results"].pop("test")["weights"] == ".../ViT-Tiny-16_stage1_2.pth", "it stays beside the training's"
    (runs.folder / "metrics.json").write_text(json.dumps(metrics))
    assert_same(runs, whole)


def test_the_state_to_resume_from_can_be_chosen(driver, hands, whole, tmp_path):
    """From another run's folder, which is not changed, or from none."""
    first, second = (Runs(driver, hands, tmp_path / name) for name in ("first", "second"))
    assert first(4, KILL, "stage 2")["status"] == KILLED
    before = {path.name: path.read_bytes() for path in first.folder.rglob("*.*")}
    done = second(RESUME=tmp_path / "third")
    assert done["status"] == 2 and "third': expected auto, never or the OUTPUT_DIR of another run" in done["said"]
    done = second(RESUME=first.folder)
    assert done["status"] == 0 and "resuming at stage 2" in done["said"], done["said"]
    assert second.numbers() == whole.numbers()
    expected = whole.weights()
    for name, state in second.weights().items():
        assert all(torch.equal(tensor, expected[name][key]) for key, tensor in state.items()), name
    assert before == {path.name: path.read_bytes() for path in first.folder.rglob("*.*")}
    (first.folder / "metrics.json").write_text("of the run before")
    done = first(RESUME="never")
    assert done["status"] == 0 and "resuming" not in done["said"], done["said"]
    assert (first.folder / "metrics_before.json").read_text() == "of the run before"
    assert_same(first, whole)

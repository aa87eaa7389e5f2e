"""One training at a time in a folder, whatever becomes of the one before."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import utils.folder_lock
from utils.errors import ReIDError
from utils.folder_lock import hold_folder, release_folder

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import os, sys, time
from pathlib import Path
from utils.folder_lock import hold_folder
hold_folder(Path(sys.argv[1]))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""
"""Another training, with a loader process that outlives it."""


@pytest.fixture
def other(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process
    process.kill()
    os.kill(child, signal.SIGKILL)
    process.communicate()


@pytest.fixture(autouse=True)
def released():
    yield
    release_folder()


def test_a_second_one_is_told_and_a_dead_one_forgotten(tmp_path, other):
    with pytest.raises(ReIDError, match=rf"OUTPUT_DIR = {tmp_path}: another training .* \(process {other.pid}\)"):
        hold_folder(tmp_path)
    other.kill()
    other.wait()
    hold_folder(tmp_path)
    assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"


def test_one_process_may_train_again_and_elsewhere(tmp_path):
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path, tmp_path / "other"):
        hold_folder(folder)
    held = subprocess.run([sys.executable, "-c", HOLDER, tmp_path / "other"], cwd=ROOT, capture_output=True, text=True)
    assert "another training is running" in held.stderr


@pytest.mark.parametrize("missing", ["no locks on this file system", "no locks on this system"])
def test_without_locks_training_goes_on(tmp_path, monkeypatch, caplog, missing):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    if missing == "no locks on this system":
        monkeypatch.setattr(utils.folder_lock, "fcntl", None)
    hold_folder(tmp_path)
    assert ("cannot be locked" in caplog.text) == (missing == "no locks on this file system")

"""One training at a time in a folder, however the earlier one ended."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import utils.console.folder_lock
from utils.console.folder_lock import folder_held, hold_folder, release_folder
from utils.errors import ReIDError

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import os, sys, time
from pathlib import Path
from utils.console.folder_lock import hold_folder
hold_folder(Path(sys.argv[1]))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""
"""Another training, with a loader process that ends after it."""
TRY = """
import sys
from pathlib import Path
from utils.console.folder_lock import hold_folder
hold_folder(Path(sys.argv[1]))
"""


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


def test_a_second_process_is_refused_and_a_dead_one_ignored(tmp_path, other):
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
def test_without_locks_training_continues(tmp_path, monkeypatch, caplog, missing):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    if missing == "no locks on this system":
        monkeypatch.setattr(utils.console.folder_lock, "fcntl", None)
    hold_folder(tmp_path)
    assert ("cannot be locked" in caplog.text) == (missing == "no locks on this file system")


def test_a_block_holds_its_folder_and_leaves_that_of_the_training_alone(tmp_path):
    (tmp_path / "other").mkdir()

    def is_held(folder):
        held = subprocess.run([sys.executable, "-c", TRY, folder], cwd=ROOT, capture_output=True, text=True)
        return "FolderInUseError" in held.stderr

    hold_folder(tmp_path)
    with folder_held(tmp_path / "other", "busy", "do something else."):
        assert is_held(tmp_path / "other") and is_held(tmp_path)
    assert is_held(tmp_path) and not is_held(tmp_path / "other")


def test_a_second_block_is_refused(tmp_path, other):
    expected = rf"busy \(process {other.pid}\)\. Wait for its end, do something else\.$"
    with pytest.raises(ReIDError, match=expected), folder_held(tmp_path, "busy", "do something else."):
        pass


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "pipe", "folder"])
@pytest.mark.timeout(60)
def test_what_has_the_lock_s_name_is_not_written_to(tmp_path, kind):
    precious, lock = tmp_path / "precious.txt", tmp_path / "run.lock"
    if kind == "link":
        precious.write_text("years of work")
    make = {"pipe": os.mkfifo, "folder": Path.mkdir}.get(kind, lambda path: path.symlink_to(precious))
    make(lock)
    with pytest.raises(ReIDError, match=f"{lock}: expected the lock file of this folder"):
        hold_folder(tmp_path)
    assert precious.exists() == (kind == "link") and (kind != "link" or precious.read_text() == "years of work")

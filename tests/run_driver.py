"""Start, kill and disturb training runs: ``python -m tests.run_driver``, one JSON order a line, one JSON answer a line.

Importing takes seconds and a run takes one, so this process imports once and forks for each run. It never trains
itself: autograd does not survive a fork.

An order is ``{"script": name, "argv": [...], "at": n, "where": label, "act": name}``. A run counts its events (its
start, steps, batches of an evaluation, halves of files written, names given to files) and does ``act`` at the n-th
whose label has ``where`` in it.
The answer holds the exit status (negative: signal), the event, and the output of the run.
"""

import ctypes
import io
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch

import processor.testing.evaluation
import processor.training.train_set
import processor.training.train_step
import test_clipreid
import train_clipreid
from tests import charts

SCRIPTS = {"train": train_clipreid, "test": test_clipreid}
FULL_DISK = 200_000
"""Bytes that a file may have on the full disk: the log still fits, a state does not."""


def give_up_privileges():
    """Drop all capabilities of this process (Linux: ``capset``), so that permissions hold for root, too."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


class Events:
    """Counts what happens and acts at one of them; notes are a file, since a killed process returns nothing."""

    def __init__(self, at, where, act, notes):
        self.at, self.where, self.act, self.notes, self.count = at, where, act, notes, 0

    def __call__(self, label):
        if self.where not in label:
            return
        self.count += 1
        if self.count != self.at:
            return
        self.notes.write_text(label)
        kind, _, detail = self.act.partition(" ")
        if kind == "signal":
            os.kill(os.getpid(), getattr(signal, detail))
        elif kind == "group":
            os.killpg(0, getattr(signal, detail))
            time.sleep(0.3)  # a process that the signal kills has ended by then
        elif kind == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_DISK, FULL_DISK))
        elif kind == "vanish":
            Path(detail).unlink()
        elif kind == "overhear":
            self.notes.write_text("")
            sys.addaudithook(self.overhear)
            if detail:
                socket.socket()
        elif kind == "readonly":
            for folder in (Path(detail), *Path(detail).glob("*/")):
                folder.chmod(0o555)
            give_up_privileges()
        elif kind == "worker":
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    def overhear(self, event, arguments):
        """Note each socket that is not one between processes of this machine, and each program that is started."""
        outward = False
        if event.startswith("socket.") and arguments:
            family = arguments[1] if event == "socket.__new__" else getattr(arguments[0], "family", None)
            outward = family != socket.AF_UNIX
        if outward or event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "urllib.Request"):
            with self.notes.open("a") as file:
                file.write(f"{event}{arguments[1:]}\n")

    def around(self, owner, name, label, after=""):
        """Have ``owner.name`` count as an event before, and as another after if that has a label."""
        function = getattr(owner, name)

        def counted(*args, **kwargs):
            self(label.format(*args))
            result = function(*args, **kwargs)
            if after:
                self(after.format(*args))
            return result

        setattr(owner, name, counted)

    def install(self):
        place = "step: stage {2.stage} epoch {2.epoch}, iteration {2.iteration}"
        self.around(processor.training.train_step.TrainStep, "_result", place)
        self.around(processor.testing.evaluation, "check_interrupt", "evaluation")
        self.around(processor.training.train_set, "check_interrupt", "features")
        self.around(os, "replace", "before naming {1}", "after naming {1}")
        save = torch.save

        def save_in_halves(content, file):
            memory = io.BytesIO()
            save(content, memory)
            half = len(memory.getvalue()) // 2
            file.write(memory.getvalue()[:half])
            file.flush()
            self("half a file")
            file.write(memory.getvalue()[half:])

        torch.save = save_in_halves


def run(order):
    """Fork, train, wait."""
    with tempfile.TemporaryDirectory() as folder:
        notes, said = Path(folder, "notes"), Path(folder, "said")
        pid = os.fork()
        if not pid:
            os.setpgrp()
            descriptor = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            status = 99
            try:
                events = Events(order["at"], order["where"], order["act"], notes)
                events.install()
                events("start")
                status = SCRIPTS[order["script"]].main(order["argv"])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, waited = os.waitpid(pid, 0)
        event = notes.read_text() if notes.exists() else ""
        return {"status": os.waitstatus_to_exitcode(waited), "event": event, "said": said.read_text()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the tests inherit that it is ignored
    charts.use(charts.leave_blank)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()

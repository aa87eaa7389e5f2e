"""Freed memory is used again: page faults of tensors that come and go."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys
import torch
from utils.compute.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(2**24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(3):
    faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux is set")
def test_a_tensor_takes_the_pages_of_the_one_before():
    def run(how):
        return int(
            subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout
        )

    pages = 5 * 2**26 // 4096
    assert run("keep") < pages / 100 < pages / 2 < run("default")

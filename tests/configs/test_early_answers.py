"""What the scripts answer before torch is loaded: here each heavy package ends the process when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "matplotlib")


def answer(folder, *words, **environment):
    for name in HEAVY:
        (folder / f"{name}.py").write_text("import sys; sys.exit(f'{__name__} was loaded')\n")
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("script", ["train_clipreid.py", "test_clipreid.py"])
def test_help(tmp_path, script):
    done = answer(tmp_path, script, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"usage: python {script}") and f"python {script} --config_file" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: --config_file"),
        (["--config_file", "gone.yml"], "error: gone.yml: no such configuration file"),
        (["--config_file", "configs/hand/demo.yml", "SOLVER.SEDE", "1"], "unknown key SOLVER.SEDE. Did you mean"),
        (["--config_file", "configs/hand/demo.yml", "MODEL.DEVICE", "gpu"], "MODEL.DEVICE"),
    ],
)
def test_what_is_wrong_with_a_configuration(tmp_path, words, said):
    done = answer(tmp_path, "train_clipreid.py", *words)
    assert done.returncode == 2 and done.stdout == "" and said in done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr


def test_what_is_left_to_the_script(tmp_path):
    """A right configuration; one of several processes, which agree on who reports an error."""
    right = answer(tmp_path, "train_clipreid.py", "--config_file", "configs/hand/demo.yml")
    several = answer(tmp_path, "train_clipreid.py", "--config_file", "gone.yml", RANK="1", WORLD_SIZE="2")
    assert "was loaded" in right.stderr and "was loaded" in several.stderr

"""Launchers other than torchrun set other variables."""

import pytest

from utils.compute.distributed import LAUNCHER, world_size
from utils.console.command_line import run_script

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def variables(monkeypatch):
    def apply(values):
        for name in LAUNCHER:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return apply


@pytest.mark.parametrize("missing", ["LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_incomplete_variables_are_refused_before_the_processes_join(variables, capsys, missing):
    variables({name: value for name, value in TORCHRUN.items() if name != missing})
    assert run_script(lambda: pytest.fail("it ran")) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: RANK = 1 and WORLD_SIZE = 2 are set, ") and f" {missing} not" in said
    assert "torchrun" in said and said.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "two"), ("LOCAL_RANK", "-1"), ("MASTER_PORT", "1.5")])
def test_variables_that_are_no_numbers(variables, capsys, name, value):
    variables(TORCHRUN | {name: value})
    assert run_script(lambda: pytest.fail("it ran")) == 2
    assert f"{name} = {value!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values",
    [{"WORLD_SIZE": ""}, {"WORLD_SIZE": "", "RANK": ""}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "4"}],
)
def test_one_process(variables, values):
    variables(values)
    sizes = []
    assert run_script(lambda: sizes.append(world_size())) == 0 and sizes == [1]

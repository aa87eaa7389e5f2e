"""How the scripts take arguments and how they end."""

import pytest
from torch.utils.data import DataLoader, Dataset

from utils.console.arguments import parse_arguments
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_logger
from utils.errors import ReIDError

KEYS = {"model": {"MODEL.NAME": "the backbone"}}


class Broken(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise ReIDError(f"photo{index}.jpg: cannot be read. Repair it.")


def test_arguments():
    arguments = parse_arguments(
        "python x.py", "what", ("how",), KEYS, ["--config_file", "a.yml", "SOLVER.SEED", "-1", "TEST.WEIGHT", "x y"]
    )
    assert (arguments.config_file, arguments.opts) == ("a.yml", ["SOLVER.SEED", "-1", "TEST.WEIGHT", "x y"])
    assert parse_arguments("python x.py", "what", ("how",), KEYS, ["--config_file=a.yml"]).opts == []


@pytest.mark.parametrize("argv", [[], ["a.yml"], ["--config_file"]])
def test_missing_file(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments("python x.py", "what", ("how",), KEYS, argv)
    assert caught.value.code == 2 and "--config_file" in capsys.readouterr().err


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments("python x.py", "what it does", ("how to call it",), KEYS, ["-h"])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and "what it does" in text and "how to call it" in text
    assert "MODEL.NAME" in text and "the backbone" in text


def test_success():
    assert run_script(lambda: None) == 0


def test_user_error_before_there_is_a_log(capsys):
    def script():
        raise ReIDError("SOLVER.SEED = 'x'")

    assert run_script(script) == 2
    assert capsys.readouterr().err == "error: SOLVER.SEED = 'x'\n"


def test_user_error_is_logged(tmp_path, capsys):
    def script():
        setup_logger(tmp_path / "log.txt")
        raise ReIDError("no such folder")

    assert run_script(script) == 2
    said = "".join(capsys.readouterr())
    assert said.count("error: no such folder") == 1 and "Traceback" not in said
    assert "ERROR error: no such folder" in (tmp_path / "log.txt").read_text()
    assert not LOGGER.handlers


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 // 0)
    assert not LOGGER.handlers


def test_errors_of_loader_processes_are_reduced_to_their_message(capsys):
    assert run_script(lambda: list(DataLoader(Broken(), num_workers=1))) == 2
    assert capsys.readouterr().err == "error: photo0.jpg: cannot be read. Repair it.\n"

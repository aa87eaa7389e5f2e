"""The benchmark of the methods: finished rows stay, and a step and a test are what is timed."""

import json

import torch

from configs import load_config
from model import METHODS
from tests.benchmarks import methods


def test_finished_rows_are_not_measured_again(tmp_path, monkeypatch, capsys):
    measured = []

    def measure(name, size, batch, steps):
        measured.append(name)
        return methods.Row(name, size, 0.2, 0.05, 0.1, 0.1, 2.5, 1.8, 768)

    monkeypatch.setattr(methods, "measure", measure)
    file = tmp_path / "rows.json"
    threads = torch.get_num_threads()
    for names in (["pcb"], ["pcb", "cdnet"]):
        methods.main(["--output", str(file), "--methods", *names])
    torch.set_num_threads(threads)
    assert measured == ["pcb", "cdnet"]
    assert [row["method"] for row in json.loads(file.read_text())["rows"]] == measured
    shown = capsys.readouterr().out.strip().splitlines()
    assert shown[-1] == "| cdnet | 200 | 50 | 2.00, 0.50 | 2.5, 1.8 M | 768 |"


def test_a_step_trains_and_a_test_has_no_classifiers():
    own = methods.Measured("cdnet", (64, 32), 4)
    before = own.method.image_encoder.stem.conv.weight.clone()
    assert own.train() > 0 and own.test() > 0
    assert not torch.equal(before, own.method.image_encoder.stem.conv.weight)
    assert methods.millions(own.method) > 2.2


def test_every_method_that_trains_images_has_a_row():
    """zeroshot has no training, and coop trains prompts alone."""
    found = {load_config(methods.recipe_of(name))[0].MODEL.METHOD for name in methods.NAMES}
    assert found == METHODS.keys() - {"zeroshot", "coop"}

"""The benchmark of ISP's clustering: all images are read once, and the figures are of the pass."""

import json

import torch

from model.methods.isp import method as isp
from tests.benchmarks import clustering

SMALL = ("MODEL.NAME", "hrnet-tiny", "INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]")


def test_the_pass_reads_each_identity_and_is_measured(monkeypatch, tmp_path, capsys):
    read, part_labels = [], isp.part_labels

    def spy(pixels, *given, **more):
        read.append(len(pixels))
        return part_labels(pixels, *given, **more)

    monkeypatch.setattr(isp, "part_labels", spy)
    measure = clustering.measure
    monkeypatch.setattr(clustering, "measure", lambda identities: measure(identities, SMALL))
    threads = torch.get_num_threads()
    file = tmp_path / "found.json"
    clustering.main(["--identities", "3", "5", "2", "--json", str(file)])
    torch.set_num_threads(threads)
    assert read == [3, 5, 2]
    found = json.loads(capsys.readouterr().out)
    assert found["GB"] > found["GB above"] >= 0 and found["processor seconds"] > 0
    assert json.loads(file.read_text())["identities"] == [3, 5, 2]

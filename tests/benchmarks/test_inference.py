"""The benchmark of test features: the variants are what they are named, and its ratio is that of its rates."""

import json

import pytest
import torch

from tests.benchmarks import inference

ARGUMENTS = ["--names", "resnet-tiny", "--size", "32x16", "--batch", "2", "--repeats", "1"]


@pytest.mark.parametrize(("bar", "verdict"), [(0.0, ""), (1e9, "MISSED")])
def test_the_benchmark_runs(tmp_path, capsys, monkeypatch, bar, verdict):
    monkeypatch.setattr(inference, "BAR", bar)
    assert inference.main([*ARGUMENTS, "--json", str(tmp_path / "found.json")]) == 0
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    best = {precision: max(row[precision], row[f"{precision} channels last"]) for precision in ("fp32", "bf16")}
    assert row["gain"] == pytest.approx(best["bf16"] / best["fp32"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split()[0] == "resnet-tiny" and line.endswith("MISSED") == bool(verdict)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_variants_have_their_memory_format(channels_last):
    model = inference.variant("resnet-tiny", (32, 16), channels_last, torch.device("cpu"))
    weight = max((module.weight for module in model.modules() if isinstance(module, torch.nn.Conv2d)), key=torch.numel)
    assert weight.shape[2:] == (3, 3)  # a weight of one pixel has both formats
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last

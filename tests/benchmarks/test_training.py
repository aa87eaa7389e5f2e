"""The benchmark of the training: its table agrees with its two paths."""

import json
import mmap
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.clip.shapes import CLIPShape, TextShape, ViTShape
from model.methods.clipreid import CLIPReID
from tests.benchmarks import training
from tests.benchmarks.machine import Peak, describe, product_flops
from tests.model.small import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A tiny run of everything, in float32 and one memory format. Its gradient steps are plain: Adam's first ones are
    the signs of noise.
    """
    file = tmp_path_factory.mktemp("benchmark") / "found.json"
    options = ("--task", "stage1", "stage2", "loader", "--batch", "8", "--iterations", "2", "--epochs", "1")
    overrides = (
        "SOLVER.CHANNELS_LAST",
        "False",
        "SOLVER.PRECISION",
        "fp32",
        "SOLVER.STAGE2.OPTIMIZER_NAME",
        "SGD",
        "SOLVER.STAGE2.WARMUP_ITERS",
        "0",
    )
    training.main(
        [
            *("--config_file", "configs/hand/demo.yml", *options, "--photo", "160x120", "--threads", "1"),
            *("--device", "cpu", "--json", str(file), *overrides),
        ]
    )
    return json.loads(file.read_text())


@pytest.mark.slow
def test_both_paths_have_the_same_losses(found):
    assert found["loss_differences"].keys() == {"stage1", "stage2"}
    assert max(found["loss_differences"].values()) < 1e-5
    for row in found["rows"]:
        if row["task"] != "loader":
            assert len(row["losses"]) == 2 and abs(row["losses"][1] / row["losses"][0] - 1) > 1e-4  # it moved


@pytest.mark.slow
def test_the_table_states_its_settings(found):
    rows = found["rows"]
    assert [(row["task"], row["path"]) for row in rows] == [(t, p) for t in training.TASKS for p in training.PATHS]
    for row in rows:
        assert row["precision"] == "float32" and 0 <= row["waiting"] <= 1 and row["peak_gb"] > 0.1
        assert row["images_per_second"] == pytest.approx(8 / row["step_seconds"], rel=1e-6)
        if row["task"] == "loader":
            assert row["step_tflop"] is None and row["waiting"] > 0
        else:
            assert row["gflops"] == pytest.approx(1e3 * row["step_tflop"] / row["step_seconds"])
            assert row["share"] == pytest.approx(row["gflops"] / row["product_gflops"])
    plain, fast = rows[:2]
    assert 4 < plain["step_tflop"] / fast["step_tflop"] < 30  # 77 tokens of 8 images, some 14 of 2 to 4 identities
    assert rows[2]["step_tflop"] == rows[3]["step_tflop"]
    assert found["machine"]["threads"] == 1 and found["settings"]["batch"] == "8"


def test_waiting_is_the_time_until_each_batch_arrives(monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(training, "time", clock)

    def batches():
        for _ in range(3):
            clock.now += 2
            yield []

    loader = training.Clocked(batches())
    for _ in loader:
        clock.now += 5
    assert (loader.waiting, loader.iterations) == (3 * 2, 3)


def test_the_plain_path_encodes_a_whole_sentence_for_each_image():
    shape = CLIPShape(ViTShape(64, 2, 16), TextShape(128, 4), 64)
    model = build(CLIPReID, shape, 6, sentence="A photo of a X X X X hand.")
    labels = torch.tensor([5, 1, 3])
    cut = model.encode_text(labels)
    seen = []
    model.text_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    training.use_whole_prompts(model, 8)
    assert torch.allclose(model.encode_text(labels), cut, atol=1e-5)
    assert seen == [(8, 77, 128)]


def test_attention_on_the_cpu_is_counted():
    query, key, value = (torch.randn(2, 3, 10, 64, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False, custom_mapping=training.ATTENTION) as counter:
        torch.nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()
    product = 2 * 2 * 3 * 10 * 10 * 64
    assert counter.get_total_flops() == (2 + 5) * product


def test_peak_includes_memory_that_was_released():
    with Peak(CPU) as peak, mmap.mmap(-1, 200_000_000) as pages:  # no memory that other tests left free
        pages[:: mmap.PAGESIZE] = bytes(len(range(0, len(pages), mmap.PAGESIZE)))
    if peak.above is None:
        pytest.skip("this system does not report peak memory")
    assert 0.19 < peak.above < 0.4 and peak.total > peak.above


def test_the_product_of_this_machine():
    assert 1e8 < product_flops(CPU, torch.float32, 256, seconds=0.05) < 1e14
    assert {"date", "torch", "cpu", "cores", "threads"} <= describe(CPU).keys()

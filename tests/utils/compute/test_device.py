"""Choosing device and number format, also on simulated machines."""

import os

import pytest
import torch

from utils.compute.device import busy_note, choose_device, choose_precision
from utils.errors import ReIDError


@pytest.fixture
def machine(monkeypatch):
    """A simulated machine with a number of GPUs, or Apple's."""

    def pretend(gpus=0, mps=False, capability=(8, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def test_auto_takes_the_best_there_is(machine):
    for gpus, mps, expected in ((2, True, "cuda:0"), (0, True, "mps"), (0, False, "cpu")):
        machine(gpus, mps)
        assert str(choose_device("auto")) == expected


def test_a_named_device(machine):
    machine(gpus=3)
    assert str(choose_device("cuda", "2")) == "cuda:2" and str(choose_device("cpu", "2")) == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu", ""])
def test_devices_that_are_not_there(machine, name):
    machine()
    with pytest.raises(ReIDError, match=rf"MODEL.DEVICE = '{name}': .*which has cpu\."):
        choose_device(name)


@pytest.mark.parametrize("number", ["2", "-1", "0,1", "first", "", "²"])
def test_gpu_numbers(machine, number):
    machine(gpus=2)
    with pytest.raises(ReIDError, match=r"MODEL.DEVICE_ID = .* 2 visible"):
        choose_device("cuda", number)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_computes_in_its_format(name, dtype):
    precision = choose_precision(name, torch.device("cpu"))
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert precision.scaler().is_enabled() == (name == "fp16")


def test_auto_precision_is_reduced_only_where_that_is_fast(machine, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert choose_precision("auto", torch.device("cpu")).dtype == torch.float32
    for kind in ("amx_tile", "avx512_bf16"):  # either is enough
        with monkeypatch.context() as patch:
            patch.setattr(torch.cpu, f"_is_{kind}_supported", lambda: True, raising=False)
            assert choose_precision("auto", torch.device("cpu")).dtype == torch.bfloat16
    for capability, dtype in (((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        machine(gpus=1, capability=capability)
        assert choose_precision("auto", torch.device("cuda", 0)).dtype == dtype
    assert choose_precision("auto", torch.device("mps")).dtype == torch.float32


@pytest.mark.parametrize(
    ("load", "threads", "kind", "noted"),
    [(9.0, 2, "cpu", True), (9.0, 1, "cpu", False), (0.5, 2, "cpu", False), (9.0, 2, "cuda", False)],
)
def test_a_busy_machine_is_noted(monkeypatch, load, threads, kind, noted):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr("utils.compute.device.usable_cores", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert ("load 9.0 on 2 cores" in busy_note(torch.device(kind))) == noted


@pytest.mark.parametrize(("threads", "usable", "noted"), [(8, 2, True), (2, 2, False), (1, 1, False)])
def test_more_threads_than_usable_cores_are_noted(monkeypatch, threads, usable, noted):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr("utils.compute.device.usable_cores", lambda: usable)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert ("8 threads compute on the 2 cores" in busy_note(torch.device("cpu"))) == noted

"""Tests of every registered method: micro-batches, several processes, a resumed run, an exported model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from model import METHODS, check_method
from model.base import Batch, Progress
from model.export import TestFeature
from tests.model.methods.toy import CPU, LABELS, build, config, outputs_of, stages, toy_batch, trained
from utils.compute.seed import RngState
from utils.errors import ReIDError

ROOT = Path(__file__).resolve().parents[3]
TRAINED = [name for name, method in METHODS.items() if method.stages]
AT = Progress(2, 1, 1)
FLIPPED = ("clipreid", "pcb")
"""Methods that are exported with the mean over an image and its mirror image, which encodes each image twice."""


def total(method, outputs, labels, at):
    terms, _ = method.losses(outputs, labels, at)
    assert terms, "a stage without losses"
    return sum(terms.values())


def gradients(cfg, stage, micro_batches, recompute=True):
    """Of one step from the same start; without ``recompute`` each micro-batch is encoded once and kept."""
    method, batch = build(cfg), toy_batch(cfg)
    method.requires_grad_(True)
    at = Progress(stage.number, 1, 1)
    encode = outputs_of(method, stage, batch, micro_batches)
    if recompute:
        outputs, labels = encode(batch, at)
    else:
        found = [encode._rows(rows, at, i) for i, rows in enumerate(batch.split(micro_batches))]
        outputs, labels = {name: torch.cat([one[name] for one in found]) for name in found[0]}, batch.labels
    torch.manual_seed(9)
    loss = total(method, outputs, labels, at)
    loss.backward()
    state = {name: tensor.clone() for name, tensor in method.named_buffers()}
    return float(loss.detach()), {n: p.grad for n, p in method.named_parameters() if p.grad is not None}, state, outputs


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= tolerance * largest, name


@pytest.mark.parametrize("name", TRAINED)
def test_micro_batches(name):
    """Four are one batch where nothing in front of the seam draws or has BatchNorm; else the recomputation is exact."""
    cfg = config(name)
    (stage,) = [stage for stage in stages(cfg) if stage.number == 2] or stages(cfg)[-1:]
    if METHODS[name].mixes_images:
        with pytest.raises(ReIDError, match="MICRO_BATCHES = 4"):
            config(name, f"SOLVER.STAGE{stage.number}.MICRO_BATCHES", "4")
        return
    if stage.cached:
        return  # the iterations encode nothing
    loss, found, buffers, rows = gradients(cfg, stage, 4)
    other, expected, states, _ = gradients(cfg, stage, 4, recompute=False)
    assert loss == pytest.approx(other, rel=1e-5)
    assert_close(found, expected, 1e-4)
    for key, value in states.items():
        assert torch.allclose(buffers[key].float(), value.float(), rtol=1e-4, atol=1e-5), key
    loss, whole, _, undivided = gradients(cfg, stage, 1)
    if all(torch.allclose(rows[key], undivided[key], rtol=1e-4, atol=1e-5) for key in rows):
        assert loss == pytest.approx(other, rel=1e-4)
        assert_close(found, whole, 1e-3)


@pytest.mark.parametrize("name", TRAINED)
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    """Two steps, a new method with the saved state, two more: parameters, buffers and generators are the state."""
    for stage in stages(config(name)):
        cfg = config(name)
        method, step, optimizers, batch = trained(cfg, stage, tmp_path)
        for i in (1, 2):
            step(batch, Progress(stage.number, 1, i))
        kept = [method.state_dict(), [o.state_dict() for o in optimizers], RngState(CPU.device).state_dict()]
        torch.save(kept, tmp_path / "state.pt")
        for i in (3, 4):
            step(batch, Progress(stage.number, 1, i))
        state, of_optimizers, rng = torch.load(tmp_path / "state.pt", weights_only=True)
        other, again, fresh, _ = trained(cfg, stage, tmp_path)
        other.load_state_dict(state)
        for optimizer, saved in zip(fresh, of_optimizers, strict=True):
            optimizer.load_state_dict(saved)
        RngState(CPU.device).load_state_dict(rng)
        for i in (3, 4):
            again(batch, Progress(stage.number, 1, i))
        for key, tensor in method.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key]), (stage.number, key)


@pytest.mark.parametrize("name", METHODS)
def test_a_test_reads_one_image_at_a_time(name):
    """In eval mode each row depends on its own image alone."""
    cfg = config(name)
    method, batch = build(cfg).eval(), toy_batch(cfg)
    with torch.no_grad():
        whole = method.test_feature(batch)
        alone = torch.cat([method.test_feature(part) for part in batch.split(len(LABELS))])
    assert whole.shape[0] == len(LABELS) and whole.dim() == 2 and whole.isfinite().all()
    torch.testing.assert_close(alone, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_the_exported_network_gives_the_test_feature(name):
    """``torch.export``, which the ONNX file is written from; images alone, as far as the method needs no more."""
    cfg = config(name)
    method, batch = build(cfg).eval(), toy_batch(cfg)
    if method.inputs - {"cameras", "views"}:
        return  # refused by model.export
    images = batch.images[:2]
    flip = name in FLIPPED
    network = TestFeature(method, flip=flip, normalise=True).eval()
    with torch.no_grad():
        program = torch.export.export(network, (images,), strict=False)
        expected = normalize(method.test_feature(Batch(images), flip=flip))
        torch.testing.assert_close(program.module()(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_keeps_what_a_test_needs(name, tmp_path):
    """It leaves out what is kept only to resume, and loads into the model of a test, which has the same feature."""
    from model import DataFacts, make_test_model

    cfg = config(name)
    method, batch = build(cfg).eval(), toy_batch(cfg)
    state = method.checkpoint()
    assert not any(key.startswith(method.resume_only or ("\0",)) for key in state)
    torch.save(state, tmp_path / "w.pth")
    cfg = config(name, "TEST.WEIGHT", str(tmp_path / "w.pth"))
    tested = make_test_model(cfg, DataFacts(0, 2, 2)).eval()
    assert not any(key.startswith(method.train_only or ("\0",)) for key, _ in tested.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(tested.test_feature(batch), method.test_feature(batch), rtol=1e-5, atol=1e-6)
    assert tested.card["method"] == name and tested.card["facts"]["identities"] == 4


def test_two_processes_are_one(tmp_path):
    """All methods in one pair of processes; see tests/model/methods/pair.py."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.model.methods.pair", str(tmp_path), *TRAINED, "clipreid@0"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() == {*TRAINED, "clipreid@0"}
    wrong = {name: worst for name, worst in found.items() if worst > 2e-3}
    assert not wrong


def test_a_method_that_reads_other_rows_refuses_micro_batches():
    for name in (name for name, method in METHODS.items() if method.mixes_images):
        cfg = config(name)
        cfg.defrost()
        cfg.SOLVER.STAGE2.MICRO_BATCHES = 2
        with pytest.raises(ReIDError, match="Set it to 1"):
            check_method(cfg)

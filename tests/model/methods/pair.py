"""One of the two processes of tests/model/methods/test_contract.py: ``-m tests.model.methods.pair FOLDER NAME ...``.

The gradients of a step on half of a batch each, against those of one process with the whole batch. Where ``forward``
draws random numbers, two processes draw others than one does, so there the step only has to run.
"""

import json
import sys
from pathlib import Path

import torch

from model.base import Progress
from model.layers.batch_norm import synchronise_batch_norm
from tests.model.methods.toy import build, config, outputs_of, stages, toy_batch
from utils.compute import distributed
from utils.compute.distributed import average_gradients, is_main, joined_processes, rank, shard_of
from utils.errors import ReIDError

WIDE = ("osnet", "rga_net", "san")
"""Computed in float64: in float32 rounding grows to 1e-2 of the largest gradient through many gates, norms, ReLUs."""


def step(cfg, stage, share, synchronise):
    """Outputs and gradients of one step on this process's ``share`` of the rows."""
    method, batch = build(cfg), toy_batch(cfg)
    if synchronise:
        synchronise_batch_norm(method)
    if cfg.MODEL.METHOD in WIDE:
        method, batch.images = method.double(), batch.images.double()
    encode = outputs_of(method, stage, batch)
    mine = batch._rows(share.start, share.stop)
    outputs, labels = encode(mine, Progress(stage.number, 1, 1))
    torch.manual_seed(9)
    terms, _ = method.losses(outputs, labels, Progress(stage.number, 1, 1))
    sum(terms.values()).backward()
    average_gradients(p for p in method.parameters() if p.requires_grad)
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {name: rows.detach() for name, rows in outputs.items()}, gradients


def worst_of(name):
    """Largest difference of a gradient, as a share of the largest gradient; 0 where draws differ.

    Of a method's last stage, or of stage n of ``METHOD@n``.
    """
    name, _, number = name.partition("@")
    cfg = config(name, *(("SOLVER.STAGES", "[0, 1, 2]") if number else ()))
    stage = next(stage for stage in reversed(stages(cfg)) if not number or stage.number == int(number))
    share = range(8) if stage.cached else shard_of(8)  # cached outputs are in every process
    outputs, found = step(cfg, stage, share, synchronise=True)
    groups, distributed._groups[:] = list(distributed._groups), []
    try:
        whole, expected = step(cfg, stage, range(8), synchronise=False)
    finally:
        distributed._groups[:] = groups
    alike = all(torch.allclose(outputs[key], whole[key], rtol=1e-2, atol=1e-3) for key in whole)
    if not alike:
        return 0.0
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((found[key] - gradient).abs().max()) for key, gradient in expected.items()) / largest


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *names = sys.argv[1:]
    with joined_processes():
        found = {}
        for name in names:
            try:
                found[name] = worst_of(name)
            except ReIDError as error:
                raise SystemExit(f"rank {rank()}, {name}: {error}") from None
        if is_main():
            Path(folder, "found.json").write_text(json.dumps(found))

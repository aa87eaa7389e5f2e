"""What each of two processes does that tests/test_distributed.py starts: ``torchrun ... -m tests.pair_driver ORDER``.

``ORDER`` is a JSON file: ``{"do": name of a function below, ...}``. Each process writes what it found to ``<rank>.pt``
beside it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim import SGD

import processor.testing.evaluation
import processor.training.train_step
import test_clipreid
import train_clipreid
from model.layers.batch_norm import in_front_of_seam, synchronise_batch_norm
from tests import charts
from utils.compute import distributed
from utils.compute.distributed import (
    average_gradients,
    gather_batch,
    is_main,
    joined_processes,
    rank,
    shard_of,
    sharded,
)
from utils.errors import ReIDError

ROWS = np.random.default_rng(0).normal(size=(7, 5))
IMAGES = np.random.default_rng(1).normal(size=(6, 4, 3, 5))


class Network(nn.Module):
    """Encoder, two heads behind the gathering, the second in shares again, and one that no loss uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder, self.head, self.text, self.idle = (
            nn.Linear(5, 4),
            nn.Linear(4, 3),
            nn.Linear(3, 3),
            nn.Linear(4, 2),
        )
        self.double()

    def forward(self, rows):
        (features,) = gather_batch(torch.tanh(self.encoder(rows)))
        self.idle(features)
        images = self.head(features).softmax(1)
        texts = sharded(lambda share: self.text(share).sin(), images)
        return (images @ texts.T * torch.cdist(features, features.roll(1, 0)).mean()).square().sum()


def gradients_of(rows):
    """The loss of this process's ``rows`` with those of all, and the gradients after three steps of SGD."""
    network = Network()
    optimizer = SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = network(torch.tensor(rows))
        loss.backward()
        average_gradients(network.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, network.state_dict(), {name: p.grad for name, p in network.named_parameters()}


def batch_norm_of(images):
    """Two training steps of a normalised convolution: gradients, buffers, and what it gives in eval mode."""
    torch.manual_seed(4)
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    nn.init.normal_(network[1].weight)
    names = list(network.state_dict())
    synchronise_batch_norm(network)
    assert list(network.state_dict()) == names
    inputs = torch.tensor(images, dtype=torch.float32)

    def loss(part):
        with in_front_of_seam():
            rows = network(part)
        (out,) = gather_batch(rows)
        return (out * torch.arange(out.numel()).reshape(out.shape).sin()).pow(3).sum()

    for _ in range(2):
        network.zero_grad()
        loss(inputs).backward()
        average_gradients(network.parameters())
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.eval()
    return gradients, network.state_dict(), network(torch.tensor(IMAGES, dtype=torch.float32)).detach()


def primitives():
    """All exchanges on small tensors, with unequal shares: 3 rows and 4, none and all."""
    half = torch.randn(2 + rank(), 3, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(rank()))
    found = {
        "uneven": gradients_of(ROWS[shard_of(7)]),
        "empty": gradients_of(ROWS[7 * (1 - rank()) :]),
        "batch norm": batch_norm_of(IMAGES[:2] if is_main() else IMAGES[2:]),
        "shares": sharded(lambda x: 2 * x, torch.arange(5)),
        "one for two": sharded(lambda x: 2 * x, torch.arange(1)),
        "bf16": (half, *gather_batch(half)),
        "objects": distributed.gather_objects(f"from {rank()}"),
        "on main": distributed.gather_on_main(rank()),
        "from main": distributed.from_main(lambda: f"made by {rank()}"),
        "main only": distributed.on_main_process(lambda: f"made by {rank()}"),
        "any": [distributed.any_process(flag) for flag in (False, is_main(), not is_main(), True)],
    }
    began = time.monotonic()
    with distributed.main_process_first():
        time.sleep(0.2 if is_main() else 0)
        found["turn"] = time.monotonic() - began
    try:
        distributed.from_main(fail)
    except ReIDError as error:
        found["error"] = str(error)
    return found


def fail():
    raise ReIDError("the disk is full")


def everything(runs):
    """:func:`primitives`, then train and test each of ``runs`` as the scripts do; images encoded in each evaluation."""
    found, seen = primitives(), []
    count = processor.testing.evaluation.gather_on_main
    processor.testing.evaluation.gather_on_main = lambda batches: (
        seen.append(sum(len(b[1]) for b in batches)) or count(batches)
    )
    for script, file, options in runs:
        (train_clipreid.train if script == "train" else test_clipreid.test)(file, options)
    return found, seen


def script(argv, at=0, act="", who=1):
    """A training as its user starts it. Process ``who`` does ``act`` at its ``at``-th step."""
    losses, steps = processor.training.train_step.TrainStep._result, iter(range(1, 10**6))

    def disturbed(self, batch, at_step):
        if next(steps) == at and rank() == who:
            if act == "fail":
                raise ReIDError("only this process has lost its disk")
            kind, whom = act.split()
            os.kill(os.getpid() if whom == "itself" else os.getppid(), getattr(signal, kind))
            time.sleep(1)  # until torchrun has passed it on
        return losses(self, batch, at_step)

    processor.training.train_step.TrainStep._result = disturbed
    return train_clipreid.main(argv)


if __name__ == "__main__":
    torch.set_num_threads(1)
    charts.use(charts.leave_blank)
    path = Path(sys.argv[1])
    order = json.loads(path.read_text())
    do = globals()[order.pop("do")]
    if do is script:
        sys.exit(script(**order))
    with joined_processes():
        torch.save(do(**order), path.parent / f"{rank()}.pt")

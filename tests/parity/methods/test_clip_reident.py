"""CLIP-ReIdent's loss and schedule against the published code (KonradHabel/clip_reid@1a935d6), see the kit's README."""

from functools import partial

import torch

from loss.info_nce import info_nce
from solver.lr_scheduler import polynomial_lr
from tests.parity.methods.kit import Golden

golden = Golden("clip_reident")


def loss_of(smoothing):
    """The loss and what it is differentiated by."""
    leaves = {name: golden.input(name).requires_grad_() for name in ("q", "g")}
    leaves["logscale"] = torch.tensor(golden.meta["logit_scale_log"], dtype=torch.float32, requires_grad=True)
    return info_nce(leaves["q"], leaves["g"], leaves["logscale"], float(smoothing)), leaves


@golden.array(r"loss_ls([\d.]+)")
def loss(smoothing):
    return loss_of(smoothing)[0]


@golden.array(r"loss_ls([\d.]+)_g(q|g|logscale)")
def gradient(smoothing, name):
    value, leaves = loss_of(smoothing)
    return torch.autograd.grad(value, leaves[name])[0]


@golden.array(r"lr_by_step")
def rates():
    lr = golden.meta["lr"]
    schedule = partial(
        polynomial_lr,
        base=lr["base"],
        num_epochs=lr["epochs"],
        lr_min=lr["end"],
        warmup_lr_init=lr["start"],
        warmup_t=lr["warmup_epochs"],
        power=lr["power"],
    )
    steps = lr["steps_per_epoch"]
    return torch.tensor([schedule(1 + k / steps) for k in range(lr["epochs"] * steps + 1)], dtype=torch.float64)


test_clip_reident = golden.test()

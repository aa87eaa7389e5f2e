"""What the golden tests of the methods on a ViT share."""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from loss import Criterion
from model.backbones.vit import ViT, ViTSize


@contextmanager
def without_random_start():
    """Leave out the random initialisation, which takes seconds, since weights are loaded."""
    with ExitStack() as stack:
        for name in ("kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"):
            stack.enter_context(patch.object(torch.nn.init, name, lambda tensor, *_, **__: tensor))
        yield


def backbone_of(state, heads, patch, image_size, stride, prefix=""):
    """A ViT of the sizes of ``state``, with random weights."""
    width = state[f"{prefix}cls_token"].shape[-1]
    numbers = {
        name.removeprefix(f"{prefix}blocks.").split(".")[0] for name in state if name.startswith(f"{prefix}blocks.")
    }
    return ViT(ViTSize(width, len(numbers), heads, patch), tuple(image_size), tuple(stride))


def soft_margin(smoothing=0.0):
    """ID and triplet loss of these methods."""
    return Criterion(label_smoothing=smoothing, margin=None)

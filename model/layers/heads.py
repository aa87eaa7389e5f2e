"""Heads behind a pooled vector: necks, reductions, classifiers and how they start."""

from __future__ import annotations

from torch import Tensor, nn


def make_neck(channels: int) -> nn.BatchNorm1d:
    """BNNeck (Luo et al., arXiv 1903.07071): a BatchNorm whose bias stays 0."""
    neck = nn.BatchNorm1d(channels)
    neck.bias.requires_grad_(False)
    return neck


def make_classifier(channels: int, identities: int, bias: bool = False, std: float = 0.001) -> nn.Linear:
    """Linear classifier with weights of normal(0, ``std``) and bias 0."""
    classifier = nn.Linear(channels, identities, bias=bias)
    nn.init.normal_(classifier.weight, std=std)
    if bias:
        nn.init.zeros_(classifier.bias)
    return classifier


def make_block(channels: int, out: int) -> nn.Sequential:
    """Linear layer, BatchNorm, LeakyReLU(0.1): between a pooled vector and its classifier in MBA-Net and GPA-Net.

    Linear weights start as kaiming normal of fan-out, BatchNorm's as normal(1, 0.02).
    """
    linear, norm = nn.Linear(channels, out), nn.BatchNorm1d(out)
    nn.init.kaiming_normal_(linear.weight, a=0, mode="fan_out")
    nn.init.zeros_(linear.bias)
    nn.init.normal_(norm.weight, 1, 0.02)
    return nn.Sequential(linear, norm, nn.LeakyReLU(0.1))


def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of rows [B, C] whose largest score is that of their label."""
    return (scores.detach().argmax(1) == labels).float().mean()

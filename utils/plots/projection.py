"""Projection of features into the plane, for charts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utils.optional import MissingPackageError, import_optional


def embed_in_plane(features: Tensor, seed: int = 0) -> tuple[np.ndarray, str]:
    """Points [N, 2] for features [N, D], and how they were found: UMAP where it is installed, else PCA."""
    if len(features) < 20:  # UMAP needs more points than the 15 neighbours it looks at
        return principal_axes(features)
    try:
        umap = import_optional("umap")
    except MissingPackageError:
        return principal_axes(features)
    return umap.UMAP(random_state=seed).fit_transform(features.numpy()), "UMAP"


def principal_axes(features: Tensor) -> tuple[np.ndarray, str]:
    """Coordinates [N, 2] along the two axes of largest variance; each axis points where its largest load is positive.

    The share of the variance that they hold stands in the name.
    """
    centred = features.double() - features.double().mean(0)
    _, strength, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(1, keepdim=True)).sign()
    points = torch.zeros(len(features), 2, dtype=torch.float64)
    points[:, : len(axes)] = centred @ axes.T
    share = float((strength[:2] ** 2).sum() / (strength**2).sum().clamp_min(torch.finfo(torch.float64).tiny))
    return points.numpy(), f"PCA ({share:.0%} of the variance)"

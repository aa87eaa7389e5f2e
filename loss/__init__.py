"""Losses of both training stages; each takes features or scores and labels, and is independent of models."""

from loss.arcface import MARGIN_HEADS, AMSoftmax, ArcFace, CircleLoss, CosFace
from loss.center_loss import CenterLoss, weighted_center
from loss.make_loss import Criterion, contrast_terms, make_loss
from loss.prototypes import identity_means, moved_prototypes, prototype_contrast
from loss.softmax_loss import CrossEntropyLabelSmooth
from loss.supcontrast import SupConLoss, SupContrast
from loss.triplet_loss import TripletLoss, cosine_dist, euclidean_dist, hard_example_mining

__all__ = [
    "MARGIN_HEADS",
    "AMSoftmax",
    "ArcFace",
    "CenterLoss",
    "CircleLoss",
    "CosFace",
    "Criterion",
    "CrossEntropyLabelSmooth",
    "SupConLoss",
    "SupContrast",
    "TripletLoss",
    "contrast_terms",
    "cosine_dist",
    "euclidean_dist",
    "hard_example_mining",
    "identity_means",
    "make_loss",
    "moved_prototypes",
    "prototype_contrast",
    "weighted_center",
]

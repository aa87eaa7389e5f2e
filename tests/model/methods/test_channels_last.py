"""SOLVER.CHANNELS_LAST changes the order of the numbers in memory and no feature."""

import pytest
import torch

from model import METHODS, set_execution
from tests.model.methods import toy

CONVOLUTIONAL = [name for name, method in METHODS.items() if method.backbones[:1] not in ((), ("clip",), ("vit",))]


@pytest.mark.parametrize("name", sorted(CONVOLUTIONAL))
def test_features_are_those_of_the_other_format(name):
    features = []
    for last in ("True", "False"):
        cfg = toy.config(name, "SOLVER.CHANNELS_LAST", last)
        method = toy.build(cfg).eval()
        set_execution(cfg, method)
        weights = [p for p in method.image_encoder.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
        assert all(p.is_contiguous(memory_format=torch.channels_last) == (last == "True") for p in weights)
        with torch.no_grad():
            features.append(method.test_feature(toy.toy_batch(cfg)))
    torch.testing.assert_close(*features, rtol=1e-3, atol=1e-4)

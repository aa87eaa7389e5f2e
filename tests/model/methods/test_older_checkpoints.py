"""Checkpoints written before methods had a contract: their tensors' names and shapes, and the features they gave.

Values are those of the parity kit's recipe (seed 7), so no weights are kept in the repository.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import load_config
from model import DataFacts, make_test_model
from model.base import Batch
from tests.parity.kit import recipe

FOLDER = Path(__file__).with_name("before_contract")
FILES = json.loads((FOLDER / "tensors.json").read_text())
SIZES = ["INPUT.SIZE_TRAIN", "[64, 48]", "INPUT.SIZE_TEST", "[64, 48]"]


def tensor(name, shape, dtype):
    if not dtype.startswith("float"):
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    scales = (0.5, 0.2, True) if name.endswith("running_var") else (0.0, 0.1, False)
    if name.endswith("weight") and any(part in name for part in ("ln_", "bn", "norm", "bottleneck")):
        scales = (1.0, 0.1, False)
    return torch.from_numpy(np.asarray(recipe(7, name, shape, *scales)))


@pytest.mark.parametrize("neck", ["before", "after"])
@pytest.mark.parametrize("name", FILES)
def test_an_older_checkpoint_gives_its_features(name, neck, tmp_path):
    file = FILES[name]
    torch.save({key: tensor(key, *what) for key, what in file["tensors"].items()}, tmp_path / "w.pth")
    given = [*SIZES, *file["options"], "TEST.WEIGHT", str(tmp_path / "w.pth"), "TEST.NECK_FEAT", neck]
    cfg, _ = load_config(file["config"], given)
    model = make_test_model(cfg, DataFacts(0, 3, 2)).eval()
    images = torch.from_numpy(np.asarray(recipe(7, "images", [2, 3, 64, 48])))
    batch = Batch(images, cameras=torch.tensor([0, 2]), views=torch.tensor([1, 0]))
    with np.load(FOLDER / "features.npz") as features, torch.no_grad():
        np.testing.assert_allclose(model.test_feature(batch), features[f"{name}.{neck}"], rtol=1e-4, atol=1e-5)

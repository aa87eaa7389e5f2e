"""A model of bare parameters under the published names, and the two published configurations."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from model.methods.clipreid import CLIPReID
from tests.parity.kit import CASES

RATES = json.loads((CASES / "08_optimizers.json").read_text())
CURVES = dict(np.load(CASES / "09_lr_curves.npz"))

_STAGE1 = {
    "OPTIMIZER_NAME": "Adam",
    "BASE_LR": 3.5e-4,
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 1e-4,
    "SCHEDULER": "cosine",
    "LR_MIN": 1e-6,
    "WARMUP_LR_INIT": 1e-5,
    "WARMUP_EPOCHS": 5,
    "EPOCH_OFFSET": 0,
    "CYCLES": [0],
}
_STAGE2 = {
    "NEW_LR_FACTOR": 1.0,
    "OPTIMIZER_NAME": "Adam",
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "BIAS_LR_FACTOR": 2,
    "LARGE_FC_LR": False,
    "FREEZE": "",
    "CENTER_LR": 0.5,
    "SCHEDULER": "multistep",
    "GAMMA": 0.1,
    "WARMUP_ITERS": 10,
    "WARMUP_METHOD": "linear",
    "EPOCH_OFFSET": 0,
    "CYCLES": [0],
}
_VIT = {
    "BASE_LR": 5e-6,
    "WEIGHT_DECAY": 1e-4,
    "WEIGHT_DECAY_BIAS": 1e-4,
    "STEPS": [30, 50],
    "WARMUP_FACTOR": 0.1,
}
_CNN = {
    "BASE_LR": 3.5e-4,
    "WEIGHT_DECAY": 5e-4,
    "WEIGHT_DECAY_BIAS": 5e-4,
    "STEPS": [40, 70],
    "WARMUP_FACTOR": 0.01,
}
RECIPES = {
    "vit": CfgNode({"SOLVER": {"STAGE1": {**_STAGE1, "MAX_EPOCHS": 120}, "STAGE2": {**_STAGE2, **_VIT}}}),
    "cnn": CfgNode({"SOLVER": {"STAGE1": {**_STAGE1, "MAX_EPOCHS": 60}, "STAGE2": {**_STAGE2, **_CNN}}}),
}


@pytest.fixture
def vit():
    return RECIPES["vit"].clone()


def named_model(*names: str) -> nn.Module:
    """CLIP-ReID with bare parameters of two numbers under these dotted names, in this order."""
    model = CLIPReID.__new__(CLIPReID)
    nn.Module.__init__(model)
    model.one_stage = False
    for name in names:
        *path, leaf = name.split(".")
        module = model
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(leaf, nn.Parameter(torch.ones(2)))
    return model


def small_model() -> nn.Module:
    return named_model(
        "cv_embed",
        "prompt_learner.cls_ctx",
        "text_encoder.ln_final.bias",
        "classifier.weight",
        "classifier_proj.weight",
        "bottleneck.weight",
        "bottleneck.bias",
        "bottleneck_proj.weight",
        "bottleneck_proj.bias",
        "image_encoder.proj",
        "image_encoder.ln_post.bias",
    )

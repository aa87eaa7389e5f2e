"""Which parameters CLIP-ReIdent trains, and at which rates."""

import torch
from torch import nn

from configs import get_defaults
from model.backbones.vit import SIZES, ViT
from model.base import Batch, Progress
from model.clip.model import make_image_encoder
from model.clip.shapes import named_shape
from model.methods.clip_reident import CLIPReIdent

AT = Progress(2, 1, 1)


def solver():
    cfg = get_defaults().SOLVER.STAGE2
    cfg.BASE_LR, cfg.BIAS_LR_FACTOR, cfg.NEW_LR_FACTOR = 1.0, 1.0, 1.0
    return cfg


def tiny(decay=1.0):
    return CLIPReIdent(ViT(SIZES["vit-tiny"], (32, 32)), 2.0, layer_decay=decay)


def test_rows_of_a_pair_attract_each_other():
    method = tiny()
    method.image_encoder = nn.Identity()  # the features are given
    same = torch.eye(4).repeat_interleave(2, 0)
    crossed = same[torch.tensor([0, 2, 1, 3, 4, 6, 5, 7])]
    paired, _ = method.losses({"feature": same}, torch.arange(4).repeat_interleave(2), AT)
    wrong, _ = method.losses({"feature": crossed}, torch.arange(4).repeat_interleave(2), AT)
    assert paired["info_nce"] < wrong["info_nce"]


def test_rates_fall_from_block_to_block():
    method = tiny(decay=0.5)
    rates = {name: method.rate(name, 2, solver()).lr for name, _ in method.named_parameters()}
    assert rates["logit_scale"] == rates["image_encoder.norm.weight"] == 1.0
    blocks = [rates[f"image_encoder.blocks.{i}.mlp.fc1.weight"] for i in range(3)]
    assert blocks == [0.25, 0.5, 1.0]
    assert rates["image_encoder.cls_token"] == rates["image_encoder.patch_embed.proj.weight"] == 0.125


def test_clip_s_projection_is_not_trained():
    backbone = make_image_encoder(named_shape("ViT-Tiny-16"), (32, 32))
    method = CLIPReIdent(backbone, 2.0)
    terms, _ = method.losses(method(Batch(torch.randn(4, 3, 32, 32)), AT), torch.tensor([0, 0, 1, 1]), AT)
    terms["info_nce"].backward()
    without = {name for name, p in method.named_parameters() if p.grad is None}
    assert without == {name for name, _ in method.named_parameters() if method.rate(name, 2, solver()) is None}
    assert without == {"image_encoder.proj"}

"""The ViT under timm's names: against timm's own network, loading, resizing, stochastic depth."""

import pytest
import timm
import torch

from model.backbones.vit import SIZES, Block, DropPath, ViT
from model.clip.positions import KnownGrid
from model.loading import load_checkpoint
from model.methods.transreid import TransReID
from utils.errors import ReIDError

NANO = SIZES["vit-tiny"]


def timm_network(image_size=(32, 48), distilled=False):
    torch.manual_seed(0)
    kind = timm.models.deit.VisionTransformerDistilled if distilled else timm.models.VisionTransformer
    network = kind(
        img_size=image_size, embed_dim=NANO.width, depth=NANO.depth, num_heads=NANO.heads, num_classes=7
    ).eval()
    for table in (network.cls_token, network.pos_embed):
        torch.nn.init.normal_(table)
    return network


def test_equals_timm_s_network():
    reference, own = timm_network(), ViT(NANO, (32, 48)).eval()
    report = own.load(reference.state_dict())
    assert set(report.skipped) == {"head.weight", "head.bias"} and not report.resized
    images = torch.randn(2, 3, 32, 48)
    outputs = own(images)
    torch.testing.assert_close(outputs["tokens"], reference.forward_features(images))
    assert torch.equal(outputs["feature"], outputs["tokens"][:, 0])
    assert own.dims == {"feature": NANO.width, "tokens": NANO.width} and own.grid == (2, 3)


def test_a_square_table_is_resized_and_the_class_row_stays():
    weights = timm_network((64, 64)).state_dict()
    own = ViT(NANO, (64, 32), (8, 8))
    report = own.load(weights)
    assert report.resized == {"pos_embed": "[1, 17, 32] -> [1, 22, 32], 4 x 4 patches -> 7 x 3"}
    assert torch.equal(own.pos_embed[0, 0], weights["pos_embed"][0, 0])


def test_a_distillation_token_is_left_out():
    reference, own = timm_network(distilled=True), ViT(NANO, (32, 48))
    report = own.load(reference.state_dict())
    assert {"dist_token", "head_dist.weight"} <= set(report.skipped)
    table = reference.pos_embed
    assert torch.equal(own.pos_embed, torch.cat((table[:, :1], table[:, 2:]), 1))


@pytest.mark.parametrize(
    ("change", "message"), [("lost", "blocks.1.norm1.weight"), ("other", "qkv"), ("more", "blocks.7")]
)
def test_weights_of_another_network_are_refused(change, message):
    weights = dict(timm_network().state_dict())
    if change == "lost":
        del weights["blocks.1.norm1.weight"]
    elif change == "other":
        weights["blocks.0.attn.qkv.weight"] = torch.zeros(9, 9)
    else:
        weights["blocks.7.norm1.weight"] = torch.zeros(NANO.width)
    with pytest.raises(ReIDError, match=message):
        ViT(NANO, (32, 48)).load(weights)


def test_side_information_joins_every_token():
    own = ViT(NANO, (32, 32)).eval()
    images, side = torch.randn(2, 3, 32, 32), torch.randn(2, NANO.width)
    assert torch.equal(own.embed(images, side), own.embed(images) + side[:, None])


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 2, 3))
    values = dropped[:, 0, 0]
    assert torch.equal(dropped, values[:, None, None].expand_as(dropped))
    assert sorted(set(values.tolist())) == pytest.approx([0, 4 / 3])
    assert abs(values.mean() - 1) < 0.03
    assert torch.equal(DropPath(0.25).eval()(torch.ones(3, 2)), torch.ones(3, 2))
    assert [block.drop_path.rate for block in ViT(NANO, (32, 32), drop_path=0.1).blocks] == pytest.approx(
        [0, 0.05, 0.1]
    )


def test_checkpointed_blocks_have_the_same_gradients():
    block, x = Block(32, 2, drop_path=0.5).train(), torch.randn(8, 5, 32)

    def gradients():
        torch.manual_seed(1)
        return torch.autograd.grad(block(x).square().sum(), list(block.parameters()))

    plain = gradients()
    block.checkpointing = True
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(), strict=True))


def test_saliency_is_a_map_of_each_image():
    own = ViT(NANO, (48, 32)).eval()
    maps = own.saliency(torch.randn(2, 3, 48, 32))
    assert maps.shape == (2, 3, 2) and maps.amin((1, 2)).eq(0).all() and maps.amax((1, 2)).eq(1).all()


def test_tracing_computes_the_same_tokens():
    own = ViT(NANO, (32, 32)).eval()
    x = own.embed(torch.randn(2, 3, 32, 32))
    found, rolled = own.trace(x)
    for block in own.blocks:
        x = block(x)
    torch.testing.assert_close(found, x)
    torch.testing.assert_close(rolled.sum(2), torch.ones(2, 5))


def test_a_checkpoint_of_another_image_size_is_resized():
    """Position tables of a trained TransReID too; see model.loading."""
    wide = TransReID(ViT(NANO, (64, 64)), 3)
    narrow = TransReID(ViT(NANO, (64, 32)), 3)
    report = load_checkpoint(narrow, wide.checkpoint(), KnownGrid(recorded=(4, 4)))
    assert list(report.resized) == ["image_encoder.pos_embed"]

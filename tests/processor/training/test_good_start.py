"""Settings that preserve a good start in stage 2: frozen layers, fixed statistics, first epochs for new layers."""

import pytest
import torch

from loss import make_loss
from model.backbones.registry import make_backbone
from processor.runs.folder import below_start
from solver import make_optimizers
from tests.model.methods.toy import build, config
from tests.processor.training.test_learning import copy, parts, train_stage2
from tests.toy_hands import write_config
from utils.errors import ReIDError


def run_stage2(hands, tmp_path, *overrides):
    """State before and after stage 2, and the names of the parameters that it trains."""
    config_file = write_config(hands, tmp_path / "run", "RN-Tiny")
    keys = ["SOLVER.STAGE2.EVAL_PERIOD", "9", "MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]"]
    cfg, run, loaders, model = parts(config_file, *keys, *overrides)
    before = copy(model)
    train_stage2(cfg, run, loaders, model)
    after = model.state_dict()
    return {name for name in after if not torch.equal(after[name], before[name])}, run.trained.keys()


def test_frozen_layers_keep_weights_and_statistics(hands, tmp_path):
    changed, trained = run_stage2(hands, tmp_path, "SOLVER.STAGE2.FREEZE", "layer2")
    front = tuple(f"image_encoder.{name}" for name in ("conv", "bn", "layer1.", "layer2."))
    assert not [name for name in changed | trained if name.startswith(front)]
    assert {"image_encoder.layer3.0.bn1.running_mean", "image_encoder.layer3.0.conv1.weight"} <= changed
    assert "image_encoder.attnpool.c_proj.weight" in trained


def test_fixed_statistics_leave_the_weights_free(hands, tmp_path):
    changed, _ = run_stage2(hands, tmp_path, "SOLVER.STAGE2.FREEZE_STATISTICS", "True")
    assert not [name for name in changed if name.startswith("image_encoder.") and "running" in name]
    assert {"image_encoder.bn1.weight", "image_encoder.conv1.weight", "bottleneck.running_mean"} <= changed


def test_first_epochs_train_the_new_layers_alone(hands, tmp_path):
    keys = ("SOLVER.STAGE2.MAX_EPOCHS", "2", "SOLVER.STAGE2.HEAD_EPOCHS")
    for name in ("all", "one"):
        (tmp_path / name).mkdir()
    changed, trained = run_stage2(hands, tmp_path / "all", *keys, "2")
    assert not [name for name in changed if name.startswith("image_encoder.")] and "classifier.weight" in changed
    assert "image_encoder.conv1.weight" in trained  # it has its turn after those epochs
    changed, _ = run_stage2(hands, tmp_path / "one", *keys, "1")
    assert "image_encoder.conv1.weight" in changed


@pytest.mark.parametrize(
    ("network", "last", "inside", "outside"),
    [
        ("RN-Tiny", "layer1", ["conv1.weight", "bn3.bias", "layer1.0.conv1.weight"], ["layer2.0.conv1.weight"]),
        (
            "ViT-Tiny-16",
            "transformer.resblocks.1",
            [
                "class_embedding",
                "positional_embedding",
                "conv1.weight",
                "ln_pre.bias",
                "transformer.resblocks.0.ln_1.bias",
            ],
            ["transformer.resblocks.2.ln_1.bias", "ln_post.bias", "proj"],
        ),
        (
            "timm/test_vit",
            "network.blocks.0",
            [f"network.{name}" for name in ("pos_embed", "cls_token", "patch_embed.proj.weight")],
            ["network.blocks.1.norm1.bias"],
        ),
    ],
)
def test_layers_up_to_a_block_are_those_that_images_pass_first(network, last, inside, outside):
    cfg = config("baseline", "MODEL.NAME", network)
    backbone = make_backbone(cfg)
    front = backbone.layers_up_to(last)
    names = [name for name, _ in backbone.named_parameters()]
    frozen = {name for name in names if name.startswith(front)}
    assert set(inside) <= frozen and not set(outside) & frozen


def test_an_unknown_layer_is_refused_with_those_that_there_are():
    cfg = config("baseline", "SOLVER.STAGE2.FREEZE", "transformer.resblocks.9")
    with pytest.raises(ReIDError, match=r"STAGE2.FREEZE = 'transformer.resblocks.9'.*transformer.resblocks.0, .*\.2\."):
        make_optimizers(cfg, build(cfg), 2)


def test_a_triplet_loss_of_length_1_ignores_lengths():
    features, labels = torch.randn(8, 5), torch.arange(4).repeat_interleave(2)
    plain, normed = (
        make_loss(config("baseline", "MODEL.TRIPLET_NORM", on, "MODEL.ID_LOSS_WEIGHT", "0"), 4, 5)
        for on in ("False", "True")
    )
    near = torch.nn.functional.normalize(features)
    found = normed([], [features], labels)["triplet"]
    assert torch.allclose(found, plain([], [near], labels)["triplet"])
    assert torch.allclose(found, normed([], [9 * features], labels)["triplet"], atol=1e-5)


def test_a_method_with_its_own_triplet_loss_refuses_the_key():
    with pytest.raises(ReIDError, match=r"MODEL\.TRIPLET_NORM with MODEL\.METHOD mgn"):
        config("mgn", "MODEL.TRIPLET_NORM", "True")


def test_a_model_below_its_start_is_noted():
    start, end = {"mAP": 50.0, "images": "a"}, {"mAP": 40.0, "images": "a"}
    assert "worse: mAP 40.0 %, 50.0 % before" in below_start({"untrained": start, "trained": end}, "trained")
    assert not below_start({"untrained": end, "trained": start}, "trained")
    assert not below_start({"untrained": start | {"images": "b"}, "trained": end}, "trained")
    assert not below_start({"trained": end}, "trained")

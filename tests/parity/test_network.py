"""Cases 2 to 6: position embeddings, both image towers, the text tower, the whole model."""

import pytest
import torch

from model.base import Batch, Progress
from model.clip.model import make_image_encoder
from model.clip.positions import resize_positions
from model.clip.shapes import shape_of_weights
from model.clip.simple_tokenizer import tokenize
from model.methods.baseline import SideInformation
from model.methods.clipreid import CLIPReID
from tests.parity.kit import assert_agrees, case, images, index, manifest, tensors

BIG = ("B", "R")


def cases(name):
    meta = index()[name]["meta"]
    return [
        pytest.param(key, value, id=key, marks=[pytest.mark.slow] if value["model"] in BIG else [])
        for key, value in meta.items()
        if isinstance(value, dict)
    ]


@pytest.mark.parametrize("grid", [(16, 8), (16, 16), (21, 10), (24, 8)])
def test_position_embedding_of_vit(grid):
    table = tensors("T")["visual.positional_embedding"]
    assert_agrees("02_posembed", f"vit_{grid[0]}x{grid[1]}", resize_positions(table, grid))


def test_position_embedding_of_resnet():
    table = tensors("T2")["visual.attnpool.positional_embedding"]
    assert_agrees("02_posembed", "rn_16x8", resize_positions(table, (16, 8))[:, :64])


def image_encoder(name, size, stride=None):
    weights = tensors(name)
    encoder = make_image_encoder(shape_of_weights(weights), size, stride)
    state = {k.removeprefix("visual."): v.clone() for k, v in weights.items() if k.startswith("visual.")}
    for key in ("positional_embedding", "attnpool.positional_embedding"):
        if key in state:
            state[key] = resize_positions(state[key], encoder.grid)
    encoder.load_state_dict(state)
    return encoder.eval()


@pytest.mark.parametrize(("key", "meta"), cases("03_vit_forward"))
@torch.no_grad()
def test_vit_forward(key, meta):
    spec = meta["image"]
    encoder = image_encoder(meta["model"], (spec["H"], spec["W"]), (meta["stride"],) * 2)
    side = None
    if meta["cv_emb"]:
        from tests.parity.kit import recipe

        cv = meta["cv_emb"]
        side = torch.from_numpy(recipe(cv["seed"], cv["name"], cv["shape"], cv["offset"], cv["scale"]))
    tokens = encoder.forward_tokens(images(spec), side)
    for stored, found in zip(("b11", "b12ln", "proj"), tokens.values(), strict=True):
        assert_agrees("03_vit_forward", f"{key}.{stored}_cls", found[:, 0])
        assert_agrees("03_vit_forward", f"{key}.{stored}_tokmean", found.mean(1))
        assert_agrees("03_vit_forward", f"{key}.{stored}_tokstd", found.std(1, unbiased=False))
    # The fast path computes the same class token without the others.
    for stored, found in zip(("b11", "b12ln", "proj"), encoder(images(spec), side).values(), strict=True):
        assert_agrees("03_vit_forward", f"{key}.{stored}_cls", found)


@pytest.mark.parametrize(("key", "meta"), cases("04_rn_forward"))
@torch.no_grad()
def test_resnet_forward(key, meta):
    name, spec = "04_rn_forward", meta["image"]
    encoder = image_encoder(meta["model"], (spec["H"], spec["W"])).train(meta["mode"] == "train")
    third, fourth = encoder.maps(images(spec))
    projected = encoder.attnpool(fourth, first_only=False)
    assert_agrees(name, f"{key}.x3_pool", third.mean((2, 3)))
    assert_agrees(name, f"{key}.x4_pool", fourth.mean((2, 3)))
    assert_agrees(name, f"{key}.x3_std", third.std((2, 3), unbiased=False))
    assert_agrees(name, f"{key}.x4_std", fourth.std((2, 3), unbiased=False))
    assert_agrees(name, f"{key}.proj0", projected[:, 0])
    assert_agrees(name, f"{key}.proj0", encoder.attnpool(fourth)[:, 0])
    assert_agrees(name, f"{key}.proj_tokmean", projected.mean(1))
    if meta["mode"] == "train":
        assert_agrees(name, f"{key}.bn1_running_mean_after", encoder.bn1.running_mean)
        assert_agrees(name, f"{key}.bn1_running_var_after", encoder.bn1.running_var)
        assert_agrees(name, f"{key}.layer4_bn3_running_var_after", encoder.layer4[-1].bn3.running_var)


def reid_model(name, reid, size=(256, 128), stride=None, **options):
    """A model with the kit's CLIP weights and ReID tensors; buffers and sentence are its own."""
    weights, parts = tensors(name), tensors(reid)
    options.setdefault("sentence", "A photo of a X X X X person.")
    backbone = make_image_encoder(shape_of_weights(weights), size, stride)
    backbone.load(weights)
    model = CLIPReID(backbone, manifest(reid)["num_classes"], text=backbone.text, **options)
    state = {k: v.clone() for k, v in parts.items() if not k.startswith("cv_embed")}
    side = options.get("side_information")
    if side is not None:
        kind = "both" if side.cameras and side.views else "camera" if side.cameras else "view"
        state["cv_embed"] = parts[f"cv_embed.{kind}"].clone()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(m.startswith(("image_encoder.", "text_encoder.", "prompt_learner.token_", "all_t")) for m in missing)
    return model


@pytest.mark.parametrize(("key", "meta"), cases("05_text"))
@torch.no_grad()
def test_prompts_and_text_features(key, meta):
    name, golden = "05_text", case("05_text")
    labels = torch.tensor(index()[name]["meta"]["labels_B"] if meta["model"] == "B" else golden["labels"])
    model = reid_model(meta["model"], f"reid_{meta['model']}", sentence=meta["sentence"]).eval()
    prompts = model.prompt_learner
    assert torch.equal(tokenize(meta["sentence"]).long(), torch.from_numpy(golden[f"{key}.tokens"]).long())
    assert prompts.end == meta["eot_index"]
    whole = prompts(labels, whole=True)
    for stored, found in (
        ("prefix", prompts.token_prefix),
        ("suffix", prompts.token_suffix),
        ("prompts", whole),
    ):
        shape = golden[f"{key}.{stored}"].shape
        assert_agrees(name, f"{key}.{stored}", found[: shape[0], : shape[1], : shape[2]])
    assert_agrees(name, f"{key}.text_features", model.text_encoder(whole, prompts.end))
    assert_agrees(name, f"{key}.text_features_cut_after_eot", model.encode_text(labels))


@pytest.mark.parametrize(("key", "meta"), cases("06_reid"))
def test_reid_model(key, meta):
    name, golden = "06_reid", case("06_reid")
    batch = images(meta["image"])
    labels, cams, views = (torch.from_numpy(golden[k])[: len(batch)] for k in ("labels", "cams", "views"))
    side = None
    if meta["model"] != "T2" and (meta["sie_camera"] or meta["sie_view"]):
        cameras = meta["cameras"] if meta["sie_camera"] else 0
        side = SideInformation(cameras, meta["views"] if meta["sie_view"] else 0, meta["sie_coe"])
    stride = (meta["stride"],) * 2 if meta["model"] != "T2" else None
    model = reid_model(meta["model"], f"reid_{meta['model']}", (256, 128), stride, side_information=side)
    model.eval()
    with torch.no_grad():
        seen = Batch(batch, labels, cams, views)
        assert_agrees(name, f"{key}.eval_before", model.test_feature(seen))
        assert_agrees(name, f"{key}.get_image_eval", model(Batch(batch))["projected"])
        model.neck_feat = "after"
        assert_agrees(name, f"{key}.eval_after", model.test_feature(seen))
        outputs = model.train()(seen, Progress(2, 1, 1))
        scores = model.scores(outputs)
    for i, score in enumerate(scores):
        assert_agrees(name, f"{key}.train_score{i}", score)
    for i, feature in enumerate(outputs.values()):
        assert_agrees(name, f"{key}.train_feat{i}", feature)
    for stored, neck in (("bn", model.bottleneck), ("bn_proj", model.bottleneck_proj)):
        assert_agrees(name, f"{key}.{stored}_running_mean_after", neck.running_mean)
        assert_agrees(name, f"{key}.{stored}_running_var_after", neck.running_var)

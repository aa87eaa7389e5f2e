"""The baseline on backbones of timm: timm's own features, weights from files, checkpoints read back."""

import json

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import test_clipreid
import train_clipreid
from configs import load_config
from model import DataFacts, make_model, make_test_model, set_execution
from model.backbones import timm_backbone
from model.backbones.saliency import CONTRIBUTIONS, ROLLOUT
from model.base import Batch
from model.convert import main as convert
from model.convert import rename_in_order
from model.export import TestFeature, export_onnx, export_safetensors
from model.make_model_clipreid import check_weights
from model.methods.registry import check_method
from processor import load_embedder
from processor.training.train_step import Encoder
from tests.model.small import AT
from tests.model.test_export import run_onnx
from tests.toy_hands import make_toy_hands, write_config
from utils.compute.device import Precision
from utils.errors import ReIDError

CNN, VIT = "test_resnet.r160_in1k", "test_vit.r160_in1k"
SIZE = (64, 32)
IMAGES = torch.randn(6, 3, *SIZE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 3


def config(name, *options):
    given = ["MODEL.NAME", f"timm/{name}", "MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]"]
    given += ["INPUT.SIZE_TRAIN", str(list(SIZE)), "INPUT.SIZE_TEST", str(list(SIZE)), "MODEL.DEVICE", "cpu"]
    return load_config(None, [*given, *options])[0]


def built(name, *options):
    torch.manual_seed(1)
    cfg = config(name, "MODEL.PRETRAIN_CHOICE", "random", *options)
    model = make_model(cfg, DataFacts(3, 1, 1))
    set_execution(cfg, model)
    model.encode = Encoder(model, Precision(torch.device("cpu"), torch.float32), cfg.SOLVER.STAGE2.MICRO_BATCHES)
    return model


def size_of(name):
    return {"img_size": SIZE} if "vit" in name else {}


@pytest.fixture(scope="module", params=[CNN, VIT])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def weights(name, tmp_path_factory):
    """A file as timm publishes it: made for 160x160 images, with a classifier."""
    torch.manual_seed(7)
    network = timm.create_model(name)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    path = tmp_path_factory.mktemp("weights") / f"{name}.pth"
    torch.save(network.state_dict(), path)
    return path


def test_features_are_those_of_timm(name, weights):
    """timm reads the same file by its own means, position embeddings for this size of image included."""
    own = make_model(config(name, "MODEL.PRETRAIN_PATH", str(weights)), DataFacts(3, 1, 1)).eval()
    source = {"file": str(weights)}
    theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, num_classes=0, **size_of(name))
    with torch.no_grad():
        expected = theirs.eval()(IMAGES)
        assert torch.equal(own(Batch(IMAGES))["feature"], expected)
        assert torch.equal(own.test_feature(Batch(IMAGES)), expected / (1 + 1e-5) ** 0.5)  # a BNNeck that saw nothing
    assert own.image_encoder.dims["feature"] == expected.shape[1] and expected.std() > 1e-3


def test_a_file_of_weights_is_read_strictly(name, weights, tmp_path, caplog):
    caplog.set_level("INFO")
    make_model(config(name, "MODEL.PRETRAIN_PATH", str(weights)), DataFacts(3, 1, 1))
    assert "the classifier of its pre-training" in caplog.text
    tensors = torch.load(weights, weights_only=True)
    lost = next(n for n in tensors if n.endswith("weight"))
    for change, words in (({lost: None}, f"missing, first {lost}"), ({"new": 1}, "no place")):
        changed = {n: t for n, t in tensors.items() if change.get(n, 0) is not None}
        changed |= {n: torch.ones(2) for n, given in change.items() if given}
        save_file(changed, tmp_path / "file.safetensors")
        with pytest.raises(ReIDError, match=words):
            make_model(config(name, "MODEL.PRETRAIN_PATH", str(tmp_path / "file.safetensors")), DataFacts(3, 1, 1))


def test_one_score_one_feature(name):
    model = built(name).train()
    outputs = model(Batch(IMAGES, LABELS), AT)
    scores = model.scores(outputs)
    assert [score.shape for score in scores] == [(6, 3)] and list(outputs) == ["feature"]
    neck = outputs["feature"]
    neck = (neck - neck.mean(0)) / (neck.var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(scores[0], neck @ model.classifier.weight.T, atol=1e-5)
    assert not any("proj" in n for n, _ in model.named_parameters() if not n.startswith("image_encoder"))


def test_saliency_is_rollout_of_a_vit_and_contributions_of_a_network_with_maps(name):
    """The rollout against timm's attention with its weights written out, the contributions as <A_p, f>."""
    model = built(name).eval()
    network = model.image_encoder.network
    if name == VIT:
        assert model.image_encoder.saliency_kind == ROLLOUT
        rolled = torch.eye(1 + 8).expand(6, -1, -1)
        with torch.no_grad():
            x = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(IMAGES))))
            for block in network.blocks:
                inside, width = block.norm1(x), block.attn.head_dim
                query, key, _ = block.attn.qkv(inside).chunk(3, -1)
                heads = [
                    (query[..., i : i + width] @ key[..., i : i + width].mT / width**0.5).softmax(-1)
                    for i in range(0, query.shape[-1], width)
                ]
                rolled = (torch.stack(heads).mean(0) + torch.eye(9)) / 2 @ rolled
                x = block(x)
        maps = rolled[:, 0, 1:].reshape(6, 4, 2)
    else:
        assert model.image_encoder.saliency_kind == CONTRIBUTIONS
        with torch.no_grad():
            last = network.forward_features(IMAGES)
        maps = torch.einsum("bchw,bc->bhw", last, last.mean((2, 3))).relu()
    low, high = maps.flatten(1).min(1).values, maps.flatten(1).max(1).values
    expected = (maps - low[:, None, None]) / (high - low)[:, None, None]
    assert torch.allclose(model.saliency(Batch(IMAGES)), expected, atol=1e-4)
    assert model.image_encoder.grid == tuple(expected.shape[1:])


def gradients(model):
    model.train()
    outputs, labels = model.encode(Batch(IMAGES, LABELS), AT)
    spread = torch.cdist(outputs["feature"], outputs["feature"]).std()
    (torch.nn.functional.cross_entropy(model.scores(outputs)[0], labels) + spread).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("option", ["SOLVER.GRAD_CHECKPOINTING|True", "SOLVER.STAGE2.MICRO_BATCHES|3"])
def test_a_vit_saves_memory_with_the_same_gradients(option):
    plain, saved = gradients(built(VIT)), gradients(built(VIT, *option.split("|")))
    assert plain.keys() == saved.keys() and len(plain) > 20
    for parameter, gradient in plain.items():
        assert torch.allclose(saved[parameter], gradient, atol=1e-5 * (1 + gradient.abs().max())), parameter


def test_channels_last_changes_the_layout_alone():
    model = built(CNN, "SOLVER.CHANNELS_LAST", "True").eval()
    assert model.image_encoder.network.forward_features(IMAGES).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model.test_feature(Batch(IMAGES)), built(CNN).eval().test_feature(Batch(IMAGES)), atol=1e-4)


@pytest.mark.slow
def test_compiled_a_vit_has_the_same_gradients():
    compiled, plain = gradients(built(VIT, "SOLVER.COMPILE", "True")), gradients(built(VIT))
    assert compiled.keys() == plain.keys() and len(plain) > 20
    for parameter, gradient in plain.items():
        assert torch.allclose(compiled[parameter], gradient, atol=1e-3 * (1 + gradient.abs().max())), parameter


@pytest.mark.slow
def test_onnx_features_agree(name, tmp_path):
    pytest.importorskip("onnxscript")
    model = built(name).eval()
    export_onnx(model, tmp_path / "feature.onnx", SIZE, flip=True, normalise=True)
    for images in (IMAGES[:1], IMAGES):  # any number of them
        with torch.no_grad():
            expected = TestFeature(model, flip=True, normalise=True)(images)
        found = run_onnx(tmp_path / "feature.onnx", {"images": images})
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_whole_run_learns_and_its_checkpoint_comes_back(name, tmp_path):
    hands = make_toy_hands(tmp_path / "hands", train_ids=8, test_ids=6)
    file = write_config(hands, tmp_path / "run", f"timm/{name}")
    options = {"MODEL.METHOD": "baseline", "SOLVER.STAGES": [2], "SOLVER.STAGE2.MAX_EPOCHS": 8, "INPUT.RE_PROB": 0.0}
    options |= {"SOLVER.STAGE2.STEPS": [7], "TEST.NECK_FEAT": "after", "TEST.PICTURES": name == VIT}
    options |= {"SOLVER.STAGE2.IMS_PER_BATCH": 16}
    words = [str(word) for pair in options.items() for word in pair]
    assert train_clipreid.main(["--config_file", str(file), *words]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    losses = [entry["loss"] for entry in metrics["history"]]
    assert losses[-1] < 0.8 * losses[0]
    weight = tmp_path / "run" / f"timm-{name}_8.pth"
    state = torch.load(weight, weights_only=True)
    cfg, _ = load_config(file, words)
    fresh = make_model(cfg, DataFacts(8, 1, 1)).state_dict()
    still = {n for n, tensor in state.items() if tensor.is_floating_point() and torch.equal(tensor, fresh[n])}
    assert still <= {"bottleneck.bias"} and "bottleneck.bias" in still, "every other tensor has moved"

    # Both ways to test it give the features of the trained network.
    tested = ["TEST.WEIGHT", str(weight), "OUTPUT_DIR", str(tmp_path / "test"), "TEST.PICTURES", "False"]
    assert test_clipreid.main(["--config_file", str(file), *words, *tested]) == 0
    again = json.loads((tmp_path / "test" / "metrics.json").read_text())["results"]["test"]
    assert again["mAP"] == metrics["results"]["trained"]["mAP"]
    photo = next((hands / "test").rglob("*.png"))
    embedder = load_embedder(file, weight, words)
    cfg, _ = load_config(file, [*words, "TEST.WEIGHT", str(weight)])
    model = make_test_model(cfg, DataFacts(1, views=1)).eval()
    with torch.no_grad():
        image = embedder.prepare(Image.open(photo).convert("RGB")).to("cpu")
        expected = torch.nn.functional.normalize(model.test_feature(Batch(image)))
    assert np.allclose(embedder.embed([photo]), expected.numpy(), atol=1e-6)

    export_safetensors(model, tmp_path / "out.safetensors", {})
    exported = timm.create_model(name, num_classes=0, **({"img_size": (32, 32)} if name == VIT else {}))
    exported.load_state_dict(load_file(tmp_path / "out.safetensors"))
    with torch.no_grad():
        assert torch.equal(exported.eval()(image), model(Batch(image))["feature"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("MODEL.NAME|timm/resnet5O", "timm/resnet5O resnet50"),
        ("MODEL.NAME|timm/resnet50|MODEL.SIE_VIEW|True", "MODEL.SIE_CAMERA/SIE_VIEW timm/resnet50"),
        (f"MODEL.NAME|timm/{VIT}|MODEL.STRIDE_SIZE|[12, 12]", "MODEL.STRIDE_SIZE [12, 12]"),
        (f"MODEL.NAME|timm/{VIT}|MODEL.METHOD|clipreid|SOLVER.STAGES|[1, 2]", "clipreid text encoder baseline"),
        (f"MODEL.NAME|timm/{VIT}|INPUT.SIZE_TRAIN|[60, 30]|INPUT.SIZE_TEST|[60, 30]", "INPUT.SIZE_TRAIN [60, 30]"),
        (f"MODEL.NAME|timm/{CNN}|SOLVER.GRAD_CHECKPOINTING|True", "GRAD_CHECKPOINTING MICRO_BATCHES"),
        (f"MODEL.NAME|timm/{CNN}|MODEL.PRETRAIN_CHOICE|imagenet|MODEL.PRETRAIN_PATH|gone.pth", "gone.pth"),
    ],
)
def test_what_cannot_work_is_refused(overrides, words):
    with pytest.raises(ReIDError) as error:
        cfg = config(CNN, "MODEL.PRETRAIN_CHOICE", "random", *overrides.split("|"))
        check_method(cfg)
        check_weights(cfg)
        set_execution(cfg, make_model(cfg, DataFacts(3, 1, 1)))
    for word in words.split():
        assert word in str(error.value), f"{word!r} is not in {error.value}"


def test_without_a_network_the_hub_is_tried_once_and_the_message_says_what_to_fetch(monkeypatch):
    asked = []

    def offline(url, **options):
        asked.append(url)
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm would ask for a minute"))
    with pytest.raises(ReIDError) as error:
        check_weights(config("vit_small_patch16_224.dino"))
    for word in ("timm/vit_small_patch16_224.dino/resolve/main/model.safetensors", "MODEL.PRETRAIN_PATH", "connect"):
        assert word in str(error.value)
    assert len(asked) == 1 and asked[0].endswith("timm/vit_small_patch16_224.dino/resolve/main/model.safetensors")


def test_weights_in_the_cache_need_no_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, file: f"cache/{file}")
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda _: pytest.fail("asked"))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: torch.nn.Linear(1, 1))
    check_weights(config("vit_small_patch16_224.dino"))


def test_weights_from_the_hub_are_loaded(monkeypatch):
    create, torch_seed = timm.create_model, 11

    def hub(name, pretrained=False, **options):
        if pretrained:
            torch.manual_seed(torch_seed)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", hub)
    monkeypatch.setattr(timm_backbone, "_reach_hub", lambda _: None)
    own = make_model(config(CNN), DataFacts(3, 1, 1)).eval()
    torch.manual_seed(torch_seed)
    theirs = create(CNN).eval()
    with torch.no_grad():
        assert torch.equal(
            own(Batch(IMAGES))["feature"], theirs.forward_head(theirs.forward_features(IMAGES), pre_logits=True)
        )


def test_names_in_the_same_order_are_converted(weights, name, tmp_path):
    tensors = torch.load(weights, weights_only=True)
    renamed = {f"layer{i}.{n.rpartition('.')[2]}": tensor for i, (n, tensor) in enumerate(tensors.items())}
    torch.save(renamed, tmp_path / "theirs.pth")
    output = tmp_path / "ours.safetensors"
    given = ["--name", f"timm/{name}", "--weights", str(tmp_path / "theirs.pth"), "--output", str(output)]
    assert convert(given) == 0
    written = load_file(output)
    assert all(torch.equal(written[n], t) for n, t in tensors.items() if not n.endswith("num_batches_tracked"))


def test_another_design_is_not_converted():
    wanted = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    with pytest.raises(ReIDError, match=r"x\.weight \[3, 2\] stands where a\.weight \[2, 3\]"):
        rename_in_order({"x.weight": torch.zeros(3, 2), "x.bias": torch.zeros(2)}, wanted)
    with pytest.raises(ReIDError, match="1 tensors, the network 2"):
        rename_in_order({"x.weight": torch.zeros(2, 3)}, wanted)

"""Exported encoders give the same features elsewhere: timm and open_clip from safetensors, onnxruntime from ONNX."""

import re
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

from configs import load_config
from model import export as export_module
from model.base import Batch
from model.export import TestFeature, export_onnx, export_safetensors, main
from model.methods.baseline import SideInformation
from tests.model.weight_files import small_model
from utils.console.logger import LOGGER
from utils.errors import ReIDError

SIZE = (64, 32)
pytestmark = pytest.mark.filterwarnings("ignore")


def images(size=SIZE, count=3):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def saved(tmp_path):
    """Writes a model's encoder and returns the file."""

    def save(model):
        export_safetensors(model, tmp_path / "encoder.safetensors", {"stride": "[16, 16]"})
        return tmp_path / "encoder.safetensors"

    return save


def test_names_and_facts(saved):
    model = small_model(size=SIZE)
    with safe_open(saved(model), framework="pt") as file:
        assert set(file.keys()) == {f"visual.{name}" for name in model.image_encoder.state_dict()}
        assert file.metadata() == {"format": "pt", "stride": "[16, 16]"}


@torch.no_grad()
def test_timm_reads_the_vit(saved):
    model = small_model(size=SIZE)
    theirs = timm.create_model(
        "vit_base_patch16_clip_quickgelu_224",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(saved(model)), "num_classes": 32},
        embed_dim=64,
        depth=2,
        num_heads=1,
        img_size=SIZE,
        num_classes=32,
    ).eval()
    ours = model(Batch(images()))
    tokens = theirs.forward_features(images())
    torch.testing.assert_close(tokens[:, 0], ours["feature"], rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs(images()), ours["projected"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_timm_reads_the_resnet_up_to_its_third_stage(saved, caplog):
    """Behind it the networks differ: the last stage has stride 1 in CLIP-ReID."""
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, checkpoint_filter_fn

    model = small_model("RN-Tiny", size=SIZE)
    path = saved(model)
    blocks = tuple(ByoBlockCfg(type="bottle", d=1, c=32 * 2**i, s=min(i + 1, 2), br=0.25) for i in range(4))
    cfg = ByoModelCfg(
        blocks=blocks,
        stem_chs=(4, 4, 8),
        stem_type="",
        stem_pool="avg2",
        downsample="avg",
        aa_layer="avg",
        head_type="",
    )
    theirs = ByobNet(cfg, num_classes=0).eval()
    state = checkpoint_filter_fn(timm.models.load_state_dict(str(path)), theirs)
    missing, _ = theirs.load_state_dict(state, strict=False)
    assert not missing
    x = theirs.stem(images())
    for stage in theirs.stages[:3]:
        x = stage(x)
    third, _ = model.image_encoder.maps(images())
    torch.testing.assert_close(x, third, rtol=0, atol=1e-5)
    assert "stride 1 here and 2 in CLIP" in " ".join(export_module._limits(model))


@torch.no_grad()
def test_open_clip_reads_the_vit(saved):
    transformer = pytest.importorskip("open_clip.transformer")
    from open_clip.model import QuickGELU
    from safetensors.torch import load_file

    model = small_model(size=SIZE)
    theirs = transformer.VisionTransformer(SIZE, 16, 64, 2, 1, 4.0, output_dim=32, act_layer=QuickGELU).eval()
    theirs.load_state_dict({name.removeprefix("visual."): t for name, t in load_file(saved(model)).items()})
    torch.testing.assert_close(theirs(images()), model(Batch(images()))["projected"], rtol=0, atol=1e-5)


def test_what_other_networks_cannot_hold_is_logged(saved):
    model = small_model(size=SIZE, stride=(12, 12), side_information=SideInformation(3, 0, 1.0))
    said = " ".join(export_module._limits(model))
    assert "patches overlap" in said and "side information" in said
    assert export_module._limits(small_model(size=SIZE)) == []


def run_onnx(path, inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == list(inputs)
    return session.run(["features"], {name: value.numpy() for name, value in inputs.items()})[0]


VARIANTS = [
    ("ViT-Tiny-16", {}, {"flip": False, "normalise": True}),
    (
        "ViT-Tiny-16",
        {"stride": (12, 12), "side_information": SideInformation(3, 2, 1.0), "neck_feat": "after"},
        {"flip": False, "normalise": False},
    ),
    ("RN-Tiny", {"neck_feat": "after"}, {"flip": True, "normalise": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "how"), VARIANTS, ids=["vit", "vit-sie-stride12", "resnet"])
def test_onnx_features_agree(name, options, how, tmp_path, recwarn):
    pytest.importorskip("onnxscript")
    model = small_model(name, size=SIZE, **options)
    export_onnx(model, tmp_path / "feature.onnx", SIZE, **how)
    assert not [str(warning.message) for warning in recwarn if "axis name" in str(warning.message)]
    for count in (1, 3):  # B is free
        inputs = {"images": images(count=count)}
        if options.get("side_information"):
            inputs |= {"camids": torch.tensor([2, 0, 1])[:count], "viewids": torch.tensor([1, 0, 1])[:count]}
        with torch.no_grad():
            expected = TestFeature(model, **how)(**inputs).numpy()
        found = run_onnx(tmp_path / "feature.onnx", inputs)
        assert found.shape == (count, expected.shape[1])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        if how["normalise"]:
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@torch.no_grad()
def test_test_feature_is_the_evaluation_s(tmp_path):
    """Flip and norm as ``processor.testing.evaluation`` computes them."""
    from torch.nn.functional import normalize

    model = small_model(size=SIZE)
    plain, mirrored = model.test_feature(Batch(images())), model.test_feature(Batch(images().flip(-1)))
    found = TestFeature(model, flip=True, normalise=True)(images())
    torch.testing.assert_close(found, normalize(plain + mirrored))


# Command line.


@pytest.fixture
def command(tmp_path):
    """Arguments of an export of a small checkpoint, as far as all exports share them."""
    torch.save(small_model(size=SIZE).state_dict(), tmp_path / "w.pth")
    (tmp_path / "run.yml").write_text(
        f"MODEL: {{NAME: ViT-Tiny-16}}\nINPUT: {{SIZE_TRAIN: {list(SIZE)}, SIZE_TEST: {list(SIZE)}}}\n"
    )
    return ["--config_file", str(tmp_path / "run.yml"), "TEST.WEIGHT", str(tmp_path / "w.pth")]


def test_command_writes_the_file(command, tmp_path, capsys):
    target = tmp_path / "new" / "encoder.safetensors"
    assert main([*command, "MODEL.ACTIVATION", "gelu", "--output", str(target)]) == 0
    said = capsys.readouterr().out
    assert f"{target} written from" in said and "skipped  text_encoder.*" in said
    with safe_open(target, framework="pt") as file:
        assert file.metadata()["activation"] == "gelu" and file.metadata()["image_size"] == "[64, 32]"
        assert torch.equal(file.get_tensor("visual.proj"), small_model(size=SIZE).image_encoder.proj)


def test_half_stores_rounded_weights_and_logs_how_far_features_move(command, tmp_path, capsys):
    target = tmp_path / "half.safetensors"
    assert main([*command, "--half", "--output", str(target)]) == 0
    said = capsys.readouterr().out
    moved, cosine = map(float, re.search(r"differ by at most (\S+), cosine ([\d.]+)", said).groups())
    model = small_model(size=SIZE)
    with safe_open(target, framework="pt") as file:
        for name, tensor in model.image_encoder.state_dict().items():
            assert torch.equal(file.get_tensor(f"visual.{name}"), tensor.half()), name
    network = TestFeature(model, flip=False, normalise=True).eval()
    draw = torch.randn(8, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(draw)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
        after = network(draw)
    assert 0 < moved == pytest.approx((before - after).abs().max().item(), rel=0.1)
    assert cosine == pytest.approx((before * after).sum(1).min().item(), abs=1e-6)


def test_numbers_that_float16_does_not_have_are_refused():
    model = small_model(size=SIZE)
    model.bottleneck.running_var[3] = 1e6
    with pytest.raises(ReIDError, match=r"--half: bottleneck.running_var holds 1e\+06"):
        export_module.round_weights(TestFeature(model, flip=False, normalise=True), SIZE)


def test_headers_record_how_images_are_prepared():
    words = ["INPUT.FIT_TEST", "crop", "TEST.FEATURE", "projected", "MODEL.METHOD", "baseline", "TEST.FLIP", "True"]
    cfg, _ = load_config(None, words)
    facts = export_module._facts(cfg) | export_module._test_facts(cfg)
    expected = {"method": "baseline", "pixel_mean": "[0.485, 0.456, 0.406]", "pixel_std": "[0.229, 0.224, 0.225]"}
    expected |= {"image_size": "[256, 128]", "fit": "crop", "feature": "projected", "flip": "True"}
    assert expected.items() <= facts.items() and all(isinstance(value, str) for value in facts.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "w.bin"], "must end in .safetensors or .onnx"),
        (["--output", "w.onnx", "TEST.WEIGHT", "none.pth"], "no such file"),
        (["--output", "w.onnx", "TEST.WEIGHT", ""], "TEST.WEIGHT is empty"),
        (["--output", "w.onnx", "TEST.WAIT", "x"], "unknown key TEST.WAIT"),
        (["--output", "w.onnx", "MODEL.SIE_CAMERA", "True", "MODEL.SIE_VIEW", "True"], "add --num_views"),
        (["--output", "w.onnx", "MODEL.SIE_CAMERA", "True"], "trained without side information"),
    ],
)
def test_mistakes_end_with_status_2(command, more, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command, *more]) == 2
    said = capsys.readouterr()
    assert message in said.out + said.err and "Traceback" not in said.out + said.err
    assert not list(tmp_path.glob("w.[bo]*"))


@pytest.mark.parametrize(
    ("package", "suffix"), [("safetensors.torch", "safetensors"), ("onnx", "onnx"), ("onnxscript", "onnx")]
)
def test_missing_packages(command, package, suffix, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    model, target = small_model(size=SIZE), tmp_path / f"w.{suffix}"
    with pytest.raises(ReIDError, match=rf"needs the package {package.partition('.')[0]}.*requirements-extra.txt"):
        if suffix == "onnx":
            export_onnx(model, target, SIZE, flip=False, normalise=True)
        else:
            export_safetensors(model, target, {})


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--output hand.onnx" in capsys.readouterr().out
    assert not LOGGER.handlers

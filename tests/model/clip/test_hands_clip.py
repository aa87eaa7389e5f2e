"""The file of MODEL.PRETRAIN_CHOICE hands: what it leaves out, which methods read it, what is refused."""

import hashlib
import json

import pytest
import torch

import train_clipreid
from configs import load_config
from model import DataFacts, check_weights, make_model, make_test_model, use_start
from model.clip import hands_clip
from model.clip.hands_clip import DRAWING_SEED, packed, start_tensors
from model.clip.weights import read_clip_weights
from utils.errors import ReIDError

FACTS = DataFacts(3, sentence="A photo of a {} hand.")
SEED = 7


def settings(*overrides):
    return load_config("configs/hand/demo.yml", ["MODEL.PRETRAIN_CHOICE", "hands", *overrides])[0]


@pytest.fixture(scope="module")
def trained():
    """Tensors after a training: locked ones and words that did not occur are unchanged."""
    tensors = start_tensors(SEED)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and name.split(".")[-2:] not in (["q_proj", "weight"], ["k_proj", "weight"]):
            rows = tensor[[320, 518]] if name == "token_embedding.weight" else tensor
            changed = (rows + 0.25).half().float()
            if name == "token_embedding.weight":
                tensor[[320, 518]] = changed
            else:
                tensors[name] = changed
    return tensors


@pytest.fixture
def file(trained, tmp_path, monkeypatch):
    content = packed(trained, SEED)
    (tmp_path / "w.safetensors").write_bytes(content)
    (tmp_path / "w.json").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest()}))
    monkeypatch.setattr(hands_clip, "FILE", tmp_path / "w.safetensors")
    monkeypatch.setattr(hands_clip, "CARD", tmp_path / "w.json")
    return tmp_path / "w.safetensors"


def test_the_package_has_the_file_of_its_card():
    content = hands_clip.FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == hands_clip.card()["sha256"]
    assert len(content) < 12_000_000


def test_training_changed_all_but_what_the_file_leaves_out():
    seed = hands_clip.card()["seed"]
    start, found = start_tensors(seed), read_clip_weights(hands_clip.FILE)
    assert found.keys() == start.keys()
    same = {name for name, tensor in found.items() if torch.equal(tensor, start[name])}
    assert same == {"visual.attnpool.q_proj.weight", "visual.attnpool.k_proj.weight"}


def test_the_zero_shot_accuracy_is_that_of_the_card(tmp_path):
    """On the card's test hands, which nothing was trained on; one image of the 384 is 0.26 points."""
    words = ["MODEL.METHOD", "zeroshot", "SOLVER.STAGES", "[]", "MODEL.PRETRAIN_CHOICE", "hands"]
    words += ["DATASETS.SYNTHETIC.TRAIN_IDS", "2", "DATASETS.ROOT_DIR", str(tmp_path)]
    words += ["TEST.PICTURES", "False", "TEST.BOOTSTRAP", "0"]
    words += ["OUTPUT_DIR", str(tmp_path / "run")]
    assert train_clipreid.main(["--config_file", "configs/hand/hands_clip.yml", *words]) == 0
    found = json.loads((tmp_path / "run/metrics.json").read_text())["results"]["text: attributes"]["accuracy"]
    assert found == pytest.approx(hands_clip.card()["zero-shot accuracy"], abs=0.6)
    assert min(found["side"], found["hand"]) >= 95


def test_it_is_small_and_comes_back_whole(file, trained):
    assert file.stat().st_size < 12_000_000
    found = read_clip_weights(file)
    assert found.keys() == trained.keys()
    for name, tensor in trained.items():
        assert torch.equal(found[name], tensor), name


def test_the_start_is_a_function_of_the_seed():
    first, again, other = start_tensors(SEED), start_tensors(SEED), start_tensors(SEED + 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["token_embedding.weight"], other["token_embedding.weight"])
    assert float(first["logit_scale"].exp()) == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("method", ["clipreid", "baseline", "zeroshot"])
def test_it_starts_every_method(file, method):
    stages = {"baseline": "[2]", "zeroshot": "[]"}.get(method, "[1, 2]")
    cfg = settings("MODEL.METHOD", method, "SOLVER.STAGES", stages)
    check_weights(cfg)
    model = make_model(cfg, FACTS)
    start = read_clip_weights(file)
    assert torch.equal(model.image_encoder.conv1.weight, start["visual.conv1.weight"])
    if method != "baseline":
        assert torch.equal(model.text_encoder.text_projection, start["text_projection"])


def test_a_test_without_a_checkpoint_reads_it(file):
    cfg = settings("MODEL.METHOD", "zeroshot", "SOLVER.STAGES", "[]")
    use_start(cfg)
    model = make_test_model(cfg, DataFacts(0))
    assert torch.equal(model.image_encoder.conv1.weight, read_clip_weights(file)["visual.conv1.weight"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.NAME", "RN-Tiny"), "the small CLIP is a RN-Small"),
        (("MODEL.PRETRAIN_PATH", "x.pt"), "leave PRETRAIN_PATH empty"),
        (("DATASETS.SYNTHETIC.SEED", str(DRAWING_SEED)), "which was trained on these hands"),
    ],
)
def test_what_does_not_go_together_is_refused(file, overrides, message):
    with pytest.raises(ReIDError, match=message):
        check_weights(settings(*overrides))


def test_another_file_and_no_file_are_refused(file):
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ReIDError, match="expected the file of its card"):
        check_weights(settings())
    hands_clip.CARD.unlink()
    with pytest.raises(ReIDError, match=r"Make them once with python -m processor\.hands_clip"):
        check_weights(settings())

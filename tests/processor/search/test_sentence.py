"""Searching a gallery by a sentence: which text encoder reads it, and the command."""

import json

import pytest
import torch
from safetensors.torch import save_file

from model.clip.alignment import Alignment, clip_tensors
from model.clip.prompts import sentence_features
from model.sentences import sentence_encoder
from processor.search.command import main
from tests.model.methods.toy import build, config
from tests.toy_hands import make_toy_hands
from utils.errors import ReIDError

SENTENCES = ["a left hand with a ring, seen from the back", "a palm"]
STAGE0 = ("SOLVER.STAGES", "[0, 1, 2]")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A file of random CLIP weights, and the network in it."""
    model = build(config("clipreid", *STAGE0))
    file = tmp_path_factory.mktemp("start") / "clip.safetensors"
    save_file(clip_tensors(model.image_encoder, model.text_encoder, model.alignment), file)
    return file, model


def started(start, method, *overrides):
    """Settings of a training from that file."""
    own = ("MODEL.PRETRAIN_CHOICE", "imagenet", "MODEL.PRETRAIN_PATH", str(start[0]))
    return config(method, *own, *overrides)


def with_weight(cfg, model, folder):
    torch.save(model.checkpoint(), folder / "w.pth")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.WEIGHT = str(folder / "w.pth")
    return cfg


def expected(model, alignment: Alignment):
    found = sentence_features(model.text_encoder.eval(), alignment.token_embedding, 77, SENTENCES)
    return torch.nn.functional.normalize(found)


def test_the_weights_of_clip_itself(start):
    file, model = start
    cfg = config("zeroshot", "TEST.WEIGHT", str(file))
    torch.testing.assert_close(sentence_encoder(cfg)(SENTENCES), expected(model, model.alignment))


def test_a_checkpoint_takes_its_words_from_its_start(start, tmp_path):
    cfg = started(start, "clipreid")
    found = sentence_encoder(with_weight(cfg, build(cfg), tmp_path))(SENTENCES)
    torch.testing.assert_close(found, expected(start[1], start[1].alignment))


def test_a_checkpoint_after_stage_0_has_its_own_words(start, tmp_path):
    cfg = started(start, "clipreid", *STAGE0)
    model = build(cfg)
    with torch.no_grad():
        model.alignment.token_embedding.add_(torch.randn_like(model.alignment.token_embedding))
    found = sentence_encoder(with_weight(cfg, model, tmp_path))(SENTENCES)
    torch.testing.assert_close(found, expected(model, model.alignment))


def test_what_has_no_words_is_refused(start, tmp_path):
    cfg = started(start, "clipreid")
    model = build(cfg)
    with torch.no_grad():
        model.text_encoder.text_projection.add_(1.0)
    with pytest.raises(ReIDError, match="its text encoder is not that of"):
        sentence_encoder(with_weight(cfg, model, tmp_path))
    cfg = config("clipreid")
    with pytest.raises(ReIDError, match="has no trained word embeddings"):
        sentence_encoder(with_weight(cfg, build(cfg), tmp_path))
    cfg = config("baseline", "MODEL.NAME", "ViT-Tiny-16")
    with pytest.raises(ReIDError, match="there is no text encoder in it"):
        sentence_encoder(with_weight(cfg, build(cfg), tmp_path))


def test_the_command(start, tmp_path):
    gallery = make_toy_hands(tmp_path / "hands", train_ids=2, test_ids=2, images=4) / "test" / "gallery"
    given = ["--config_file", "configs/hand/vit_zeroshot.yml", "--gallery", str(gallery), "--text", SENTENCES[0]]
    settings = ["MODEL.NAME", "ViT-Tiny-16", "TEST.WEIGHT", str(start[0]), "DATALOADER.NUM_WORKERS", "0"]
    output = ["--enrolled", str(tmp_path / "enrolled"), "--output", str(tmp_path / "answers")]
    assert main([*given, *output, "--format", "json", *settings]) == 0
    answers = json.loads((tmp_path / "answers").read_text())
    assert [a["rank"] for a in answers] == [1, 2] and {a["query"] for a in answers} == {SENTENCES[0]}
    assert answers[0]["similarity"] >= answers[1]["similarity"]
    assert main([*given, *output, "--format", "html", *settings]) == 0
    assert SENTENCES[0] in (tmp_path / "answers").read_text(encoding="utf-8")


def test_thresholds_of_images_are_not_for_sentences(capsys):
    given = ["--config_file", "configs/hand/demo.yml", "--gallery", "x", "--text", "a hand", "--far", "0.01"]
    assert main(given) == 2

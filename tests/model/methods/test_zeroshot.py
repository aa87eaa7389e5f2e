"""Zero-shot: the encoder's own features, and sentences matched with images by hand-made numbers."""

import json
from types import SimpleNamespace

import pytest
import torch

import train_clipreid
from configs import load_config
from datasets.bases import QueryGallerySplit, Record
from datasets.hands.attributes import TEMPLATES, hand_attributes, hand_sentence
from model import DataFacts, make_model
from model.base import Batch
from model.clip.simple_tokenizer import tokenize
from processor.testing.text_matching import attribute_accuracy, text_results
from tests.toy_hands import make_toy_hands, write_config
from utils.errors import ReIDError
from utils.metrics import Features

ROW = {"age": "21", "gender": "female", "skinColor": "fair", "aspectOfHand": "palmar left", "nailPolish": "1"}


def zeroshot(name, *more):
    given = ["MODEL.METHOD", "zeroshot", "SOLVER.STAGES", "[]", "MODEL.NAME", name, "MODEL.PRETRAIN_CHOICE", "random"]
    given += ["TEST.NECK_FEAT", "after", "INPUT.SIZE_TRAIN", "[32, 32]", "INPUT.SIZE_TEST", "[32, 32]"]
    return make_model(
        load_config(None, [*given, *more])[0], DataFacts(3, 1, 1, sentence="A photo of a {} hand.")
    ).eval()


@pytest.mark.parametrize("name", ["ViT-Tiny-16", "RN-Tiny", "timm/test_vit.r160_in1k"])
def test_features_are_the_encoders(name):
    model, images = zeroshot(name), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        found = model.image_encoder(images)
        both = [found["feature"]] if name.startswith("timm") else [found["feature"], found["projected"]]
        assert torch.equal(model.test_feature(Batch(images)), torch.cat(both, 1))
    assert model.matches_text != name.startswith("timm")


@pytest.mark.parametrize(("feature", "output"), [("image", "feature"), ("projected", "projected")])
@pytest.mark.parametrize("name", ["ViT-Tiny-16", "RN-Tiny"])
def test_one_of_the_two_features_can_be_chosen(name, feature, output):
    model, images = zeroshot(name, "TEST.FEATURE", feature), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model.image_encoder(images)[output]
        assert torch.equal(model.test_feature(Batch(images)), expected)
        flipped = model.test_feature(Batch(images), flip=True)
        assert torch.allclose(flipped, expected + model.image_encoder(images.flip(-1))[output], atol=1e-6)


def test_marks_of_the_tokenizer_in_sentences_are_refused():
    with pytest.raises(ReIDError, match=r"a sentence = 'a <\|endoftext\|> hand'"):
        zeroshot("ViT-Tiny-16").encode_sentences(["a hand", "a <|endoftext|> hand"])


def test_sentences_of_different_lengths_are_encoded_as_each_alone():
    model, sentences = zeroshot("ViT-Tiny-16"), ["a hand", "a photo of the palmar side of a hand", "b"]
    found = model.encode_sentences(sentences)
    with torch.no_grad():
        for row, text in zip(found, sentences, strict=True):
            tokens = tokenize(text)
            alone = model.text_encoder(model.words[tokens], int(tokens.argmax()))[0]
            assert torch.allclose(row, alone / alone.norm(), atol=1e-6)


def test_sentences():
    known = hand_attributes(ROW)
    expected = "A photo of the palmar side of the left hand of a female person with fair skin, with polished nails."
    assert hand_sentence(known) == expected and known["age"] == "young"
    assert hand_sentence(hand_attributes({**ROW, "nailPolish": "0"})) == expected.replace(", with polished nails", "")
    assert hand_sentence({}) == "A photo of the hand of a person."


def test_retrieval_by_hand():
    """Two persons share all attributes: the sentence finds both, and one of them by identity at half the precision."""
    same, other = {"gender": "female"}, {"gender": "male"}
    query = [Record("q0", 0, 0, 0), Record("q1", 1, 0, 0)]
    gallery = [Record("g0", 0, 0, 0), Record("g1", 1, 0, 0), Record("g2", 2, 0, 0), Record("unknown", 3, 0, 0)]
    attributes = {"q0": same, "q1": same, "g0": same, "g1": same, "g2": other}
    axes = torch.tensor(
        [[9.0, 1.0, 0.2], [9.0, 1.0, 0.5], [9.0, 0.1, 1.0], [9.0, 1.0, 0.0]]
    )  # 9: not of the shared space
    features = SimpleNamespace(
        query=Features(torch.tensor([[0, 1.0, 0.0], [0, 0.0, 1.0]]), torch.tensor([0, 1]), torch.zeros(2)),
        gallery=Features(axes, torch.arange(4), torch.zeros(4)),
    )

    def encode(sentences):
        return torch.tensor([[0.0, 1.0] if "male" in text.split() else [1.0, 0.0] for text in sentences])

    rows = text_results(features, QueryGallerySplit(None, query, gallery), attributes, encode, hand_sentence, TEMPLATES)
    assert rows["text: attributes"]["mAP"] == 100 and rows["text: attributes"]["queries"] == 1
    # Ranked g0, g1, g2: person 0 at rank 1, person 1 at rank 2.
    assert rows["text: identity"]["mAP"] == pytest.approx(75) and rows["text: identity"]["Rank-1"] == 50
    # Images q0 g0 g1 are nearest to "female", g2 to "male", q1 wrongly to "male".
    assert rows["text: attributes"]["accuracy"] == {"gender": pytest.approx(80)}
    assert rows["text: attributes"]["largest value"] == {"gender": pytest.approx(80)}
    assert attribute_accuracy(torch.ones(2, 2), [same, same], encode, TEMPLATES)["accuracy"] == {}


def test_a_run_promises_no_checkpoint(tmp_path, capfd):
    hands = make_toy_hands(tmp_path / "hands")
    file = write_config(hands, tmp_path / "run")
    words = ["MODEL.METHOD", "zeroshot", "SOLVER.STAGES", "[]", "TEST.NECK_FEAT", "after"]
    assert train_clipreid.main(["--config_file", str(file), *words]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics["results"]) == ["zero-shot"] and not list((tmp_path / "run").glob("*.pth"))
    assert metrics["results"]["zero-shot"]["protocol"]["NECK_FEAT"] == "before", "the features pass no neck"
    log = (tmp_path / "run" / "train_log.txt").read_text()
    assert "next:" not in log and "not matched with sentences: the data set has no attributes" in log
    assert (tmp_path / "run" / "report.html").is_file()

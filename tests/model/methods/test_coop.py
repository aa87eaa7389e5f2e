"""CoOp against an independent computation with open formulas: whole sentences, one class and one image at a time."""

import json
import math

import pytest
import torch

import test_clipreid
import train_clipreid
from model.base import Progress
from model.clip.model import make_image_encoder
from model.clip.shapes import named_shape
from model.clip.simple_tokenizer import encode
from model.methods.coop import ContextLearner, CoOp
from tests.toy_hands import write_config
from utils.errors import ReIDError

SHAPE = named_shape("ViT-Tiny-16")
NAMES = ["0042", "anna", "person with fair skin", "b"]
START, END = 49406, 49407


def built(embedding=None, **options):
    torch.manual_seed(0)
    backbone = make_image_encoder(SHAPE, (32, 32))
    if embedding is not None:
        backbone.text.embedding = embedding
    return CoOp(backbone, len(NAMES), text=backbone.text, names=NAMES, **{"context": 4, **options}).eval()


def table():
    torch.manual_seed(5)
    return torch.randn(49408, 64)


def slow_logits(model, features, tokens_embedding, middle):
    """For each image and class: all 77 places of the sentence, the text encoder on this sentence alone."""
    learner, logits = model.prompt_learner, torch.zeros(len(features), len(NAMES))
    for c, name in enumerate(NAMES):
        vectors = learner.ctx[c] if learner.ctx.dim() == 3 else learner.ctx
        half = len(vectors) // 2 if middle else len(vectors)
        words = tokens_embedding[encode(name)]
        dot, first, last = (tokens_embedding[[t]] for t in (encode(".")[0], START, END))
        parts = [first, vectors[:half], words, vectors[half:], dot, last]
        sentence = torch.cat(parts)
        padded = torch.cat([sentence, torch.zeros(77 - len(sentence), 64)])
        text = model.text_encoder(padded[None], len(sentence) - 1)[0]
        for i, image in enumerate(features):
            cosine = (image * text).sum() / (image.norm() * text.norm())
            logits[i, c] = cosine / 0.07
    return logits


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("class_specific", [False, True])
def test_loss_and_gradient_are_those_of_the_open_formula(middle, class_specific, monkeypatch):
    """Also when the classes go through the text encoder in two parts."""
    embedding = table()
    model = built(embedding, middle=middle, class_specific=class_specific)
    assert model.prompt_learner.ctx.shape == ((4, 4, 64) if class_specific else (4, 64))
    features, labels = torch.randn(6, 32), torch.tensor([0, 1, 2, 3, 3, 0])
    logits = slow_logits(model, features, embedding, middle)
    expected = (
        -sum(
            math.log(math.exp(row[y]) / sum(map(math.exp, row)))
            for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
        )
        / 6
    )
    slow = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), model.prompt_learner.ctx)[0]
    for at_once in (256, 3):
        monkeypatch.setattr("model.methods.coop.TEXTS_AT_ONCE", at_once)
        terms, shown = model.losses({"projected": features}, labels, Progress(1, 1, 1))
        loss = terms["ce"]
        assert loss.item() == pytest.approx(expected, rel=1e-4)
        assert shown["accuracy"] == (logits.argmax(1) == labels).float().mean()
        fast = torch.autograd.grad(loss, model.prompt_learner.ctx)[0]
        assert torch.allclose(fast, slow, atol=1e-5 * slow.abs().max() + 1e-7)


def test_sentences_are_cut_behind_the_longest_and_start_words_are_taken():
    learner = ContextLearner(NAMES, 16, table(), start="A photo")
    assert torch.equal(learner.ctx, table()[encode("a photo")]) and learner.ctx.requires_grad
    lengths = [1 + 2 + len(encode(name)) + 1 for name in NAMES]
    assert learner.ends.tolist() == lengths and learner.embedded.shape[1] == max(lengths) + 1
    random = ContextLearner(NAMES, 400 // 8, table())
    assert random.ctx.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_name_that_is_too_long_is_a_user_error():
    with pytest.raises(ReIDError, match="tokens"):
        ContextLearner(["a " * 70], 16, table())


@pytest.mark.slow
@pytest.mark.parametrize("stages", [[1], [1, 2]])
def test_a_whole_run(hands, tmp_path, stages):
    file = write_config(hands, tmp_path / "run")
    words = ["MODEL.METHOD", "coop", "SOLVER.STAGES", str(stages)]
    words += [
        "SOLVER.STAGE1.MAX_EPOCHS",
        "12",
        "SOLVER.STAGE1.CHECKPOINT_PERIOD",
        "6",
        "SOLVER.STAGE1.BASE_LR",
        "0.02",
        "MODEL.COOP.CLASS_SPECIFIC",
        "True",
    ]
    assert train_clipreid.main(["--config_file", str(file), *words]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    first = [entry for entry in metrics["history"] if entry["stage"] == 1]
    assert first[-1]["ce"] < first[0]["ce"] and first[-1]["accuracy"] > first[0]["accuracy"]
    earlier, state = (
        torch.load(tmp_path / "run" / f"ViT-Tiny-16_stage1_{epoch}.pth", weights_only=True) for epoch in (6, 12)
    )
    assert {n for n in state if not torch.equal(state[n], earlier[n])} == {"prompt_learner.ctx"}
    if stages == [1, 2]:
        second = torch.load(tmp_path / "run" / "ViT-Tiny-16_1.pth", weights_only=True)
        moved = {n for n in state if not torch.equal(state[n], second[n])}
        assert any(n.startswith("image_encoder.") for n in moved)
        assert not any(n.startswith(("prompt_learner.", "text_encoder.", "logit_scale")) for n in moved)
        return
    given = ["TEST.WEIGHT", str(tmp_path / "run" / "ViT-Tiny-16_stage1_12.pth"), "OUTPUT_DIR", str(tmp_path / "test")]
    assert test_clipreid.main(["--config_file", str(file), *words, *given]) == 0
    tested = json.loads((tmp_path / "test" / "metrics.json").read_text())["results"]["test"]
    assert tested["mAP"] == metrics["results"]["trained"]["mAP"]


def test_marks_of_the_tokenizer_in_a_name_are_refused():
    """The text encoder would read the sentence up to the name and ignore the rest."""
    for names, start in ((["anna", "<|endoftext|>"], ""), (["anna", "b"], "A <|startoftext|> of")):
        with pytest.raises(ReIDError, match=r"<\|\w+oftext\|>.*cannot stand inside one"):
            ContextLearner(names, 4, table(), start=start)

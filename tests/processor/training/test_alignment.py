"""Diagnostics of sentences: their numbers, when they are measured, when they warn, and where they are shown."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

import train_clipreid
from model.base import Method
from processor.runs.run import TrainingProgress
from processor.training import alignment
from processor.training.alignment import StageAlignment, measure
from tests.toy_hands import make_toy_hands, write_config
from utils.compute.device import Precision


class GivenSentences(Method):
    """A method whose sentences are given."""

    has_sentences = True

    def __init__(self, sentences):
        super().__init__()
        self.given = sentences

    def sentences(self):
        assert not self.training and not torch.is_grad_enabled()
        return self.given

    build = forward = losses = embed = None


def run_of(history=(), position=(0, 0)):
    precision = Precision(torch.device("cpu"), torch.float32)
    place = TrainingProgress(*position)
    return SimpleNamespace(history=list(history), alignment={}, position=place, precision=precision)


def slow(images, labels, sentences):
    """The same numbers, one product at a time, in float64."""
    images, sentences = images.double().tolist(), sentences.double().tolist()

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    def cosine(a, b):
        return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))

    right, spans, cosines = 0, [], []
    for image, label in zip(images, labels.tolist(), strict=True):
        near = [cosine(image, sentence) for sentence in sentences]
        right += near.index(max(near)) == label
        logits = [dot(image, sentence) for sentence in sentences]
        spans.append(max(logits) - min(logits))
    for label in sorted(set(labels.tolist())):
        own = [image for image, other in zip(images, labels.tolist(), strict=True) if other == label]
        cosines.append(cosine([sum(column) / len(own) for column in zip(*own, strict=True)], sentences[label]))
    lengths = [[math.sqrt(dot(row, row)) for row in rows] for rows in (images, sentences)]
    return {
        "sentence_accuracy": right / len(images),
        "sentence_cosine": sum(cosines) / len(cosines),
        "logit_span": sum(spans) / len(spans),
        "length_product": math.prod(sum(one) / len(one) for one in lengths),
    }


def test_the_numbers_are_those_of_a_slow_computation(monkeypatch):
    """Also cut into parts, and with an identity that has no image."""
    monkeypatch.setattr(alignment, "IMAGES_AT_ONCE", 3)
    torch.manual_seed(0)
    sentences = 2 * torch.randn(5, 6)
    labels = torch.tensor([0, 1, 3, 3, 1, 0, 4, 4])
    images = sentences[labels] + 2.5 * torch.randn(8, 6)
    found = measure(GivenSentences(sentences).train(), images, labels, run_of())
    assert found == pytest.approx(slow(images, labels, sentences), rel=1e-5)
    assert 0 < found["sentence_accuracy"] < 1


@pytest.fixture
def said(monkeypatch):
    lines = []

    def note(level):
        return lambda text, *values: lines.append((level, text % values))

    monkeypatch.setattr(alignment, "LOGGER", SimpleNamespace(info=note("info"), warning=note("warning")))
    return lines


def watch(stage, length, history=(), position=(0, 0)):
    """A stage whose four images are their sentences, with features of ``length``."""
    axes = length * torch.eye(4)
    run = run_of(history, position)
    return StageAlignment(GivenSentences(axes), run, stage, SimpleNamespace(loader=[]), (axes, torch.arange(4))), run


@pytest.mark.parametrize(("length", "epoch", "warned"), [(3, 2, ""), (1, 1, ""), (1, 2, "less than 5"), (10, 1, "40")])
def test_spans_outside_their_bounds_are_warnings(said, length, epoch, warned):
    stage, _ = watch(1, length)
    found = stage.after(epoch, 2)
    assert found["logit_span"] == pytest.approx(length**2)
    warnings = [text for level, text in said if level == "warning"]
    assert (warned in warnings[0] and len(warnings) == 1) if warned else not warnings


def test_a_wide_span_is_reported_once(said):
    stage, _ = watch(1, 10, [{"stage": 1, "epoch": 1, "logit_span": 100.0}])
    stage.after(2, 3)
    assert [level for level, _ in said] == ["info"]


def test_stage_two_starts_where_stage_one_ended_and_reports_the_remaining_alignment(said):
    ended = {"stage": 1, "epoch": 3, "loss": 1.0, "sentence_accuracy": 0.8, "sentence_cosine": 0.5, "logit_span": 9.0}
    stage, run = watch(2, 3, [ended])
    stage.begin()
    assert run.alignment == {"2": {name: ended[name] for name in alignment.MEASURED if name in ended}}
    stage.cached = (torch.roll(3 * torch.eye(4), 1, 0), torch.arange(4))  # no image is near its sentence any more
    assert stage.after(1, 5)["alignment_left"] == 0
    assert any(level == "warning" and "0 %" in text and "80.0 % before" in text for level, text in said)
    assert "alignment_left" not in stage.after(2, 5)


def test_a_resumed_stage_keeps_its_start(said):
    stage, run = watch(2, 3, position=(2, 4))
    stage.begin()
    assert not run.alignment and not said


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    base = tmp_path_factory.mktemp("trained")
    file = write_config(make_toy_hands(base / "hands"), base / "run", "RN-Tiny")
    options = ["SOLVER.STAGE1.MAX_EPOCHS", "2", "SOLVER.STAGE2.MAX_EPOCHS", "3"]
    assert train_clipreid.main(["--config_file", str(file), *options, "TEST.BOOTSTRAP", "0"]) == 0
    return base / "run"


def test_a_run_has_them_in_metrics_and_report(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    measured = [(e["stage"], e["epoch"]) for e in metrics["history"] if "sentence_accuracy" in e]
    assert measured == [(1, 1), (1, 2), (2, 1), (2, 3)]  # in stage 2 at the first epoch and where it is evaluated
    assert metrics["alignment"].keys() == {"1", "2"}
    second = next(e for e in metrics["history"] if e["stage"] == 1 and e["epoch"] == 2)
    assert metrics["alignment"]["2"]["sentence_cosine"] == second["sentence_cosine"]
    page = (trained / "report.html").read_text()
    assert "Images and sentences" in page and "span of the logits" in page
    assert "cosine of sentence and centroid" in (trained / "train_log.txt").read_text()

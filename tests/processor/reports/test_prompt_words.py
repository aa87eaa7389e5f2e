"""Words and sentences near the learned prompts: found as a slow search finds them, written, shown with the caution."""

import json
from types import SimpleNamespace

import torch

import train_clipreid
from model.clip.simple_tokenizer import encode
from processor.html_report import write_report
from processor.reports.prompt_words import CAUTION, attribute_sentences, nearest_sentences, nearest_words
from tests.toy_hands import make_toy_hands, write_config


def test_the_nearest_words_are_those_of_the_table():
    """A token that is a word's own vector, a little moved, has that word; each token has its own."""
    table = torch.randn(49408, 8, generator=torch.Generator().manual_seed(0))
    words = [["palm", "ring"], ["nail", "left"]]
    tokens = torch.stack([torch.stack([table[encode(word)[0]] for word in one]) for one in words])
    found = nearest_words(tokens + 0.001, table)
    assert [[token[0] for token in one] for one in found] == words
    assert all(len(token) == 3 and all(word.isalpha() for word in token) for one in found for token in one)


def test_the_nearest_sentences_have_the_highest_cosines():
    features, known = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 9.0], [1.0, 0.1], [-1.0, 0.0]])
    (first, second) = nearest_sentences(features, known, ["up", "right", "left"], 2)
    assert [text for text, _ in first] == ["right", "up"] and [text for text, _ in second] == ["right", "up"]
    assert abs(first[0][1] - 1 / 1.01**0.5) < 1e-6
    assert nearest_sentences(features, known[:0], []) == [[], []]


def test_sentences_are_of_the_values_that_training_images_have():
    records = [SimpleNamespace(path=name) for name in "abc"]
    attributes = {"a": {"hand": "left", "nails": "natural"}, "b": {"hand": "right"}, "test": {"hand": "third"}}
    dataset = SimpleNamespace(train=records, attributes=attributes)
    templates = {"hand": "A {} hand.", "nails": "With {} nails.", "age": "Who is {}."}
    assert attribute_sentences(dataset, templates) == ["A left hand.", "A right hand.", "With natural nails."]


def test_a_training_writes_them_and_the_report_shows_them(tmp_path):
    file = write_config(make_toy_hands(tmp_path / "hands"), tmp_path / "run", "RN-Tiny")
    options = ["TEST.BOOTSTRAP", "0", "TEST.VERIFICATION", "False"]
    assert train_clipreid.main(["--config_file", str(file), *options]) == 0
    found = json.loads((tmp_path / "run" / "sentences.json").read_text())
    assert found["caution"] == CAUTION and len(found["identities"]) == 6
    assert [len(row["words"]) for row in found["identities"]] == [4] * 6
    page = (tmp_path / "run" / "report.html").read_text()
    assert CAUTION.split(":")[0] in page and found["identities"][0]["words"][0][0] in page
    # A row about attributes is shown as it is written.
    found["identities"][0]["sentences"] = [["A photo of a <left> hand.", 0.5]]
    (tmp_path / "run" / "sentences.json").write_text(json.dumps(found))
    assert "A photo of a &lt;left&gt; hand. (0.50)" in write_report(tmp_path / "run").read_text()
    options += ["MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]", "RESUME", "never"]
    assert train_clipreid.main(["--config_file", str(file), *options]) == 0
    assert not (tmp_path / "run" / "sentences.json").exists()

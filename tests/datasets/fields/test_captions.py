"""Sentences about images: drawn from attributes, given in files, refused before training where they cannot work."""

from types import SimpleNamespace

import numpy as np
import pytest

from configs import load_config
from datasets import captions_of, classes_of, make_dataset
from datasets.fields.captions import AttributeClasses, Captions, draw_sentence
from datasets.hands.attributes import hand_attributes
from tests.toy_hands import make_toy_hands, write_config
from utils.errors import ReIDError

DRAWN = {"side": "palmar", "hand": "left", "skin": "fair", "build": "slender", "table": "grey", "marks": "a scar"}
HAND_INFO = {
    "gender": "female",
    "skinColor": "fair",
    "age": "22",
    "aspectOfHand": "dorsal right",
    "nailPolish": "1",
    "accessories": "0",
    "irregularities": "1",
}


def many(attributes, plain=0.5, count=400):
    rng = np.random.default_rng(0)
    return [draw_sentence(attributes, rng, plain) for _ in range(count)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_share_of_plain_sentences(share):
    said = many(DRAWN, share)
    plain = [s for s in said if s.removesuffix(".").endswith("of a left hand") and s.count(" ") < 9]
    assert len(plain) == pytest.approx(share * len(said), abs=0.06 * len(said))


def test_other_sentences_are_varied():
    said = many(DRAWN)
    assert len(set(said)) > 80
    assert any("slender left hand with" in s and s.endswith("on a grey table.") for s in said)
    assert not any("right" in s or "back" in s or "dorsal" in s for s in said)


def test_attributes_of_11k_hands_become_sentences():
    said = many(hand_attributes(HAND_INFO))
    assert any("young female person" in s for s in said)
    assert any("polished nails" in s for s in said) and any("irregularities" in s for s in said)
    assert not any("with accessories" in s for s in said)
    assert not any("palm" in s for s in said)


def test_a_sentence_is_a_function_of_image_and_seed():
    captions = Captions({}, {"a.png": DRAWN})
    assert captions.draw("a.png", 7) == captions.draw("a.png", 7)
    assert len({captions.draw("a.png", seed) for seed in range(40)}) > 10
    detailed = captions.detailed("a.png")
    assert all(word in detailed for word in ("slender left hand", "fair skin", "a scar", "grey table"))


def test_each_attribute_has_a_sentence_of_its_own():
    captions = Captions({}, {"a.png": DRAWN, "b.png": {"skin": "dark"}})
    said = captions.attribute_sentences("a.png")
    assert said[-1] == "palm of a left hand" and "A photo of a hand with a scar." in said and "" in said
    assert len(set(said) - {""}) == len(DRAWN) + 1
    assert set(captions.attribute_sentences("b.png")) == {"", "A photo of a hand with dark skin."}
    assert set(captions.attribute_sentences("c.png")) == {""}


def test_attributes_with_two_values_are_classes():
    known = {"a.png": {"skin": "fair", "side": "palmar"}, "b.png": {"skin": "dark", "side": "palmar"}, "c.png": {}}
    classes = AttributeClasses(Captions({}, known), list(known))
    assert classes.sentences == (("A photo of a hand with dark skin.", "A photo of a hand with fair skin."),)
    assert [classes.labels(path) for path in known] == [[1], [0], [-1]]


@pytest.fixture
def data(tmp_path):
    """A small tree of hands and its configuration."""
    root = make_toy_hands(tmp_path / "hands", train_ids=2, test_ids=2, images=3)
    cfg, _ = load_config(str(write_config(root, tmp_path / "run")), ["INPUT.PROB", "0.0"])
    return root, cfg


def write(root, rows):
    (root / "captions.csv").write_text("path,caption\n" + "".join(f'{p},"{c}"\n' for p, c in rows), encoding="utf-8")


def images(root):
    return sorted(p.relative_to(root).as_posix() for p in (root / "train").rglob("*.png"))


def test_a_file_beside_the_images(data):
    root, cfg = data
    first, *others = images(root)
    write(root, [(first, "a green hand"), (first, "a hand, green"), *((p, f"hand {i}") for i, p in enumerate(others))])
    dataset = make_dataset(cfg)
    captions = captions_of(cfg, dataset)
    path = next(r.path for r in dataset.train if r.path.endswith(first))
    assert {captions.draw(path, seed) for seed in range(20)} == {"a green hand", "a hand, green"}
    assert captions.detailed(path) == "a green hand"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            lambda paths: [("train/missing/1.png", "a hand"), *((p, p) for p in paths)],
            "1 image of it.*train/missing/1.png",
        ),
        (lambda paths: [(p, p) for p in paths[1:]], "1 of 6 training images have no sentence"),
        (
            lambda paths: [(p, "a hand") for p in paths],
            "all 6 training images have the same sentences, such as 'a hand'",
        ),
        (lambda paths: [(p, "") for p in paths], "line 2, column 'caption' is empty"),
    ],
)
def test_files_that_cannot_work(data, rows, message):
    root, cfg = data
    write(root, rows(images(root)))
    with pytest.raises(ReIDError, match=message):
        captions_of(cfg, make_dataset(cfg))


def test_images_of_one_side_and_hand_are_described_by_what_else_is_known(data):
    """As in hand_11k_stage0.yml: the plain sentence of all of them is the same."""
    _, cfg = data
    dataset = make_dataset(cfg)
    known = [{"side": "dorsal", "hand": "right", "skin": skin} for skin in ("fair", "dark")]
    dataset.attributes = {record.path: known[i % 2] for i, record in enumerate(dataset.train)}
    cfg.defrost()
    cfg.SOLVER.STAGE0.PLAIN_SHARE = 0.0
    captions = captions_of(cfg, dataset)
    drawn = {captions.draw(record.path, seed) for record in dataset.train for seed in range(20)}
    assert len(drawn) > 2 and "back of a right hand" not in drawn
    for same in ({"skin": "fair"}, {"side": "palmar", "hand": "left"}):
        dataset.attributes = dict.fromkeys(dataset.attributes, same)
        with pytest.raises(ReIDError, match="all 6 training images have the same sentences"):
            captions_of(cfg, dataset)


def test_sentences_without_attributes_have_no_attribute_loss(data):
    root, cfg = data
    write(root, [(p, f"hand {i}") for i, p in enumerate(images(root))])
    cfg.defrost()
    cfg.SOLVER.STAGE0.ATTRIBUTE_WEIGHT = 0.5
    dataset = make_dataset(cfg)
    with pytest.raises(ReIDError, match=r"no attribute .* has two values among the training images of hand"):
        classes_of(cfg, dataset, captions_of(cfg, dataset))


def test_images_without_any_words(data):
    _, cfg = data
    with pytest.raises(ReIDError, match=r"6 of 6 training images have no sentence.*captions.csv"):
        captions_of(cfg, make_dataset(cfg))


def test_mirror_images_and_left_or_right(data):
    root, cfg = data
    write(root, [(p, f"a left hand {i}") for i, p in enumerate(images(root))])
    cfg.defrost()
    cfg.INPUT.PROB = 0.5
    with pytest.raises(ReIDError, match=r"Set INPUT\.PROB to 0"):
        captions_of(cfg, make_dataset(cfg))


def test_a_column_of_a_listing(data):
    _, cfg = data
    records = [SimpleNamespace(path=f"{i}.png") for i in range(2)]
    known = {"0.png": {"caption": "one"}, "1.png": {"caption": "two"}}
    dataset = SimpleNamespace(name="listing", train=records, attributes=known)
    assert captions_of(cfg, dataset).draw("1.png", 3) == "two"

"""Mirrored images of hands whose other side is another identity."""

from pathlib import Path

import pytest
import torch

from configs import load_config
from datasets import check_data, make_dataloader, make_dataset
from datasets.reading.mirroring import both_sides
from processor import load_embedder
from tests.datasets.hand_trees import message
from tests.datasets.pictures import hand_config, pixels, plant_hands, save
from utils.images import read_image

RECIPES = sorted((Path(__file__).parents[3] / "configs" / "hand").glob("*.yml"))


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["12 left", "12 right", "13 left"], ("12 left", "12 right")),
        (["001_left_index", "001_left_middle", "001_right_index"], ("001_left_index", "001_right_index")),
        (["007_l", "007_R"], ("007_R", "007_l")),
        (["left/3", "right/3"], ("left/3", "right/3")),
        (["7L", "7R"], ("7L", "7R")),
        (["12 left", "13 right"], None),
        (["1", "2", "10"], None),
        (["bright1", "blight1", "alr", "arl"], None),
    ],
)
def test_names_that_differ_in_the_side_alone(names, pair):
    assert both_sides(names) == pair


@pytest.mark.parametrize(
    ("keys", "require_train", "advice"),
    [
        (["INPUT.PROB", "0.5"], True, "Set INPUT.PROB to 0.0."),
        (["TEST.FLIP", "True", "INPUT.PROB", "0.0"], True, "Set TEST.FLIP to False."),
        (["TEST.FLIP", "True", "INPUT.PROB", "0.5"], True, "Set INPUT.PROB to 0.0 and TEST.FLIP to False."),
        (["TEST.FLIP", "True", "INPUT.PROB", "0.5"], False, "Set TEST.FLIP to False."),
        (["INPUT.PROB", "0.5"], False, None),
        (["INPUT.PROB", "0.0"], True, None),
    ],
)
def test_mirroring_them_is_noted(tmp_path, keys, require_train, advice):
    root = plant_hands(tmp_path / "hands")
    people = sorted((root / "train").iterdir())
    for side, person in zip(("left", "right"), people[:2], strict=True):
        person.rename(person.with_name(f"7_{side}"))
    for side, person in zip(
        ("left", "right"), sorted(p.name for p in (root / "test" / "query").iterdir())[:2], strict=True
    ):
        for part in ("query", "gallery"):
            (root / "test" / part / person).rename(root / "test" / part / f"9 {side}")
    cfg = hand_config(root, *keys)
    dataset = make_dataset(cfg, require_train=require_train)
    check_data(cfg, dataset)
    found = [note for note in dataset.notes if "mirror image" in note]
    assert len(found) == (advice is not None)
    assert not advice or (found[0].endswith(advice) and ("7_left and 7_right" if require_train else "9 ") in found[0])


@pytest.mark.parametrize(
    ("columns", "side_information", "said"),
    [
        (("view",), "True", "dorsal left and dorsal right are two views"),
        (("view",), "False", None),
        (("person", "hand"), "False", "1 and 2 are two identities"),
        (("hand",), "True", None),
    ],
)
def test_sides_that_views_or_columns_name(tmp_path, columns, side_information, said):
    """Identities are numbers: 1 and 2 are the hands of person p, 3 and 4 of q."""
    rows = []
    for number in range(1, 9):
        identity, part = (number + 1) // 2, "train" if number < 5 else ("query", "gallery")[number % 2]
        hand = "left" if identity % 2 else "right"
        values = {"view": f"dorsal {hand}", "person": "pq"[identity > 2], "hand": hand}
        save(tmp_path / f"{number}.png", pixels(number))
        rows.append(",".join([f"{number}.png,{identity},{part}", *(values[column] for column in columns)]))
    (tmp_path / "list.csv").write_text("\n".join([",".join(["path,identity,split", *columns]), *rows]))
    keys = ["DATASETS.NAMES", "listing", "DATASETS.LISTING", tmp_path / "list.csv", "DATASETS.ROOT_DIR", tmp_path]
    cfg = hand_config(tmp_path, *keys, "INPUT.PROB", "0.5", "MODEL.SIE_VIEW", side_information)
    dataset = make_dataset(cfg)
    check_data(cfg, dataset)
    found = [note for note in dataset.notes if "mirror image" in note]
    assert len(found) == (said is not None) and (not said or found[0].startswith(said))


def test_no_recipe_mirrors_hands_of_both_sides():
    checked = set()
    for path in RECIPES:
        cfg, _ = load_config(path)
        if cfg.DATASETS.NAMES in ("hand_fkp", "synthetic_hand") or (
            cfg.DATASETS.NAMES == "hand_11k" and cfg.DATASETS.ASPECT == "all"
        ):
            checked.add(path.stem)
            assert not cfg.TEST.FLIP, path
            assert cfg.INPUT.PROB == 0 or not cfg.SOLVER.STAGES, path
    assert {"hand_11k_joint", "hand_fkp", "demo"} <= checked


NAMES = [f"{p}_{side}_{n}.png" for p in ("001", "002", "003", "004") for side in ("left", "right") for n in (1, 2)]
PATTERN = r"(?P<person>\d+)_(?P<side>left|right)_(?P<sample>\d)\.png"


def hands(root, mirror, *pairs):
    for seed, name in enumerate(NAMES):
        save(root / "set" / name, pixels(seed))
    keys = ["DATASETS.NAMES", "pattern", "DATASETS.PATTERN", PATTERN, "INPUT.MIRROR", mirror, *pairs]
    return hand_config(root / "set", *keys, "INPUT.PROB", "0.0", "INPUT.RE_PROB", "0.0", "INPUT.PADDING", "0")


def pictures(cfg):
    """Every image of training and test by name, as the network gets it."""
    dataset = make_dataset(cfg)
    loaders = make_dataloader(cfg, dataset)
    seen = {}
    for loader in (loaders.plain, loaders.test):
        for batch in loader:
            for image, row in zip(batch["images"].to("cpu"), batch["index"].tolist(), strict=True):
                seen[Path(loader.dataset.records[row].path).name] = image
    return dataset, seen


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_left_hands_are_mirrored_in_training_and_test(tmp_path, cache):
    plain, as_stored = pictures(hands(tmp_path, "", "DATASETS.CACHE", cache))
    mirrored, seen = pictures(hands(tmp_path, "left", "DATASETS.CACHE", cache))
    assert seen.keys() == set(NAMES) and mirrored.train == plain.train and mirrored.query == plain.query
    for name, image in seen.items():
        assert torch.equal(image, as_stored[name].flip(-1) if "left" in name else as_stored[name])


def test_a_cache_on_disk_keeps_both(tmp_path):
    disk = ("DATASETS.CACHE", "disk", "DATASETS.CACHE_DIR", str(tmp_path / "cache"))
    for mirror, turned in (("", False), ("right", True), ("", False)):
        _, seen = pictures(hands(tmp_path, mirror, *disk))
        stored = read_image(tmp_path / "set" / "001_right_1.png")
        plain = pictures(hands(tmp_path, ""))[1]["001_right_1.png"]
        assert stored.size == (16, 16)
        assert torch.equal(seen["001_right_1.png"], plain.flip(-1) if turned else plain)


@pytest.mark.parametrize(
    ("mirror", "pairs", "part"),
    [
        ("dorsal left", [], "none of the 16 images of pattern set has this label; found: left, right"),
        ("palm", [], "none of the 16 images"),
        (
            "left",
            ["DATASETS.PATTERN", r"(?P<person>\d+)_[a-z]+_\d\.png"],
            "does not say which hand 16 images of 16 show",
        ),
    ],
)
def test_what_cannot_be_mirrored_is_an_error(tmp_path, mirror, pairs, part):
    assert part in message(make_dataset, hands(tmp_path, mirror, *pairs))


@pytest.mark.parametrize(("mirror", "count"), [("all", 16), ("none", 0), ("left", 8), ("right, left", 16), ("Left", 8)])
def test_how_many_are_mirrored(tmp_path, mirror, count):
    assert len(make_dataset(hands(tmp_path, mirror)).reading.mirrored) == count


def test_loose_images_are_mirrored_by_their_names(tmp_path, monkeypatch):
    file = tmp_path / "config.yml"
    file.write_text(hands(tmp_path, "left").dump())
    monkeypatch.setattr("processor.embedder._torch_network", lambda cfg: lambda images: images.to("cpu").flatten(1))
    paths = [tmp_path / "set" / "001_left_1.png", tmp_path / "set" / "001_right_1.png"]
    features = load_embedder(file, "model.pth").embed(paths).reshape(2, 3, 16, 16)
    stored = load_embedder(file, "model.pth", ["INPUT.MIRROR", "none"]).embed(paths).reshape(2, 3, 16, 16)
    turned = load_embedder(file, "model.pth", ["INPUT.MIRROR", "all"]).embed(paths).reshape(2, 3, 16, 16)
    assert (features[0] == stored[0, ..., ::-1]).all() and (features[1] == stored[1]).all()
    assert (turned == stored[..., ::-1]).all() and not (features[0] == stored[0]).all()
    other = save(tmp_path / "other.png", pixels(0))
    said = message(load_embedder(file, "model.pth").embed, [other])
    assert said.startswith("INPUT.MIRROR = 'left', and the name of") and "DATASETS.PATTERN" in said

"""Mirrored images of hands whose other side is another identity."""

from pathlib import Path

import pytest

from configs import load_config
from datasets import check_data, make_dataset
from datasets.mirroring import both_sides
from tests.datasets.pictures import hand_config, plant_hands

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "hand").glob("*.yml"))


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

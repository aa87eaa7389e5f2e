"""Warnings about photographs and labels from key points, on drawn hands with wrong labels."""

import numpy as np
import pytest

from datasets.inspect.command import main
from datasets.inspect.hands import doubts_of
from datasets.parsing.keypoints import KeyPoints, read_keypoints, write_keypoints
from datasets.synthetic_hand.dataset import SyntheticHand, identity_hand


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return SyntheticHand(root, train_identities=2, test_identities=2, images_per_identity=4, size=64)


@pytest.fixture(scope="module")
def known(drawn):
    return read_keypoints(drawn.root / "keypoints.csv").images


def test_doubts(known):
    found = next(iter(known.values()))
    small = found._replace(points=found.points / 4 + 20)
    assert doubts_of(found, found.hand) == doubts_of(found, "") == []
    assert doubts_of(found, {"left": "right", "right": "left"}[found.hand]) == ["the other hand than labelled"]
    assert doubts_of(found._replace(points=64 - found.points), "") == ["upside down"]
    assert doubts_of(found._replace(points=found.points - [0, 10]), "") == ["cut by the border"]
    assert doubts_of(found._replace(hands=2), "") == ["several hands"]
    assert doubts_of(small, "") == ["smaller than a tenth"]
    assert doubts_of(KeyPoints(np.full((21, 2), np.nan), np.zeros(21), 0.0, "", 0, (64, 64)), "left") == ["no hand"]


def listing(drawn, wrong):
    """The drawn hands as a listing with their true sides, but for those of ``wrong``."""
    rows = ["path,identity,split,hand"]
    for record in (*drawn.train, *drawn.query, *drawn.gallery):
        name = record.path.removeprefix(f"{drawn.root}/")
        *folders, identity, _ = name.split("/")
        right = identity_hand(0, int(identity)).right != (name in wrong)
        rows.append(f"{name},{identity},{folders[-1]},{'right' if right else 'left'}")
    return "\n".join([*rows, ""])


def test_wrong_labels_are_listed_and_shown(drawn, known, tmp_path, capsys):
    wrong, gone = drawn.query[0].path.removeprefix(f"{drawn.root}/"), next(iter(known))
    nothing = KeyPoints(np.full((21, 2), np.nan), np.zeros(21), 0.0, "", 0, (64, 64))
    write_keypoints(tmp_path / "points.csv", {**known, gone: nothing})
    (tmp_path / "listing.csv").write_text(listing(drawn, {wrong}), encoding="utf-8")
    keys = ["DATASETS.NAMES", "listing", "DATASETS.LISTING", str(tmp_path / "listing.csv"), "DATASETS.ROOT_DIR"]
    keys += [str(drawn.root), "DATASETS.KEYPOINTS", str(tmp_path / "points.csv"), "DATALOADER.NUM_WORKERS", "1"]
    (tmp_path / "config.yml").write_text("TEST: {RUNS: 1}\n", encoding="utf-8")
    main(["--config_file", str(tmp_path / "config.yml"), "--sheet", str(tmp_path / "s.png"), *keys])
    said = capsys.readouterr().out
    assert f"the other hand than labelled: 1 image of 16: {wrong}" in said
    assert f"no hand: 1 image of 16: {gone}" in said and "upside down" not in said
    assert (tmp_path / "s_suspects.png").exists() and f"suspects: {tmp_path / 's_suspects.png'}" in said


def test_without_key_points_the_message_says_how_to_get_them(drawn, tmp_path, capsys):
    (tmp_path / "listing.csv").write_text(listing(drawn, ()), encoding="utf-8")
    for record in (*drawn.train, *drawn.query, *drawn.gallery):
        copy = tmp_path / record.path.removeprefix(f"{drawn.root}/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(record.path)
    main(["--root", str(tmp_path), "--sheet", str(tmp_path / "s.png"), "DATALOADER.NUM_WORKERS", "1"])
    assert "python -m datasets.keypoints finds the key points" in capsys.readouterr().out
    assert not (tmp_path / "s_suspects.png").exists()

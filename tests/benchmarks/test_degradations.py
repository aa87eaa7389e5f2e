"""Each degradation has the effect of its name; the benchmark runs on toy hands."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks import degradations
from tests.benchmarks.degradations import DEGRADATIONS, main
from tests.model.weight_files import small_model, write
from tests.toy_hands import make_toy_hands, write_config


def test_each_degradation_has_its_effect():
    small = np.random.default_rng(0).integers(60, 200, (60, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((180, 120))
    pixels = np.asarray(picture, float)
    for name, degrade in DEGRADATIONS.items():
        changed = degrade(picture)
        same = changed.size == picture.size and np.array_equal(np.asarray(changed), pixels)
        assert same == (name == "none") and changed.mode == "RGB"
        assert changed.size == ((60, 40) if "resolution" in name else picture.size)
    assert (np.asarray(DEGRADATIONS["half covered"](picture))[:, :90] == 0).all()
    shifted = np.asarray(DEGRADATIONS["shifted by 10 %"](picture), float)
    np.testing.assert_allclose(shifted[12:, 18:], pixels[:-12, :-18], atol=1)
    assert 15 < (np.asarray(DEGRADATIONS["noise of 20 grey values"](picture)) - pixels).std() < 22


def test_turns_go_by_the_angle_that_is_named():
    """Clockwise, as the turn of agreeing points is; scaled about the centre."""
    picture = Image.new("RGB", (101, 101))
    picture.putpixel((80, 50), (255, 255, 255))
    turned = np.asarray(degradations.moved(turn=90)(picture))[..., 0]
    assert np.unravel_index(turned.argmax(), turned.shape) == (80, 50)
    wide = Image.new("RGB", (100, 100))
    wide.paste((255, 255, 255), (40, 40, 60, 60))
    assert np.asarray(degradations.moved(scale=1.5)(wide))[50, :, 0].astype(bool).sum() == pytest.approx(30, abs=3)


def test_the_benchmark_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("cv2")
    kept = {name: DEGRADATIONS[name] for name in ("none", "half covered")}
    monkeypatch.setattr(degradations, "DEGRADATIONS", kept)
    config = write_config(make_toy_hands(tmp_path / "hands"), tmp_path / "run")
    weights = write("plain", small_model(size=(32, 32)), tmp_path / "w.pth")
    found = tmp_path / "found.json"
    main(
        [
            "--config_file",
            str(config),
            "--people",
            "2",
            "--nearest",
            "all",
            "--json",
            str(found),
            "TEST.WEIGHT",
            str(weights),
        ]
    )
    rows = json.loads(found.read_text())
    assert [row["degradation"] for row in rows] == list(kept)
    assert all(0 < mean <= 100 for row in rows for mean, _ in row["found"].values())
    assert list(rows[0]["found"]) == ["global", "points", "poc", "joint"]
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "| query images | global | points | poc | joint |" and len(lines) == 4

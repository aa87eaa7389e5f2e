"""Paths above a data set or a run are not written anywhere."""

from pathlib import Path

import pytest

from utils.files.paths import ShortPaths


@pytest.fixture
def shorten(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "cwd", lambda: Path("/srv/project"))
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))
    named = ["/mnt/lab/ann/hands/", "/scratch/ann/run", "/top", "data/hands", "auto", "", "/srv/project/output/x"]
    return ShortPaths([*named, str(tmp_path / "link" / "hands")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/project/data/a.jpg: broken", "data/a.jpg: broken"),
        ("in '/home/ann/x.pt' and /home/ann.", "in '~/x.pt' and ~."),
        (
            "/mnt/lab/ann/hands/train/7/a.jpg, /mnt/lab/ann/hands (nothing)",
            ".../hands/train/7/a.jpg, .../hands (nothing)",
        ),
        ("--config_file=/scratch/ann/run/config.yml", "--config_file=.../run/config.yml"),
        ("/top/secret.jpg", "/top/secret.jpg"),  # nothing stands above it
        ("/srv/project: no such folder; /srv/projects", ".: no such folder; /srv/projects"),
        # no part of another path
        ("/backup/srv/project/data /old/home/ann/x", "/backup/srv/project/data /old/home/ann/x"),
        ("/home/anna/x ../home/ann/y", "/home/anna/x ../home/ann/y"),
        ("mAP 3.5, no path", "mAP 3.5, no path"),
    ],
)
def test_texts(shorten, text, expected):
    assert shorten(text) == expected


def test_links_are_followed(tmp_path):
    (tmp_path / "real" / "hands").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    shorten = ShortPaths([str(tmp_path / "link" / "hands")])
    assert shorten(f"{tmp_path / 'real' / 'hands' / 'a.jpg'} {tmp_path / 'link' / 'hands' / 'a.jpg'}") == (
        ".../hands/a.jpg .../hands/a.jpg"
    )


def test_everything_that_json_holds(shorten):
    content = {"a": ["/mnt/lab/ann/hands/b", 3, None, {"c": "/home/ann/d"}], "e": 1.5}
    assert shorten.everywhere(content) == {"a": [".../hands/b", 3, None, {"c": "~/d"}], "e": 1.5}

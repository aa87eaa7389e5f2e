"""Folders that hold more than photographs."""

import errno
import os

import pytest

from datasets.hands.folder import HandFolder
from datasets.parsing.folders import find_root, images_below, scan
from processor.extract import list_folder
from tests.datasets.hand_trees import message, plant


@pytest.fixture
def closed(monkeypatch):
    """Make a folder one that cannot be listed; permissions would not bind root."""

    def close(folder, scandir=os.scandir):
        def refuse(place="."):
            if str(place) == str(folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
            return scandir(place)

        monkeypatch.setattr(os, "scandir", refuse)
        return f"{folder}: cannot be read (Permission denied). Change its permissions"

    return close


def test_a_folder_that_cannot_be_read_is_an_error_wherever_it_stands(tmp_path, closed):
    plant(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/query/c/q.jpg", "test/gallery/c/g.jpg")
    expected = closed(tmp_path / "train" / "b")
    assert message(HandFolder, tmp_path).startswith(expected)
    assert message(images_below, tmp_path / "train").startswith(expected)
    assert message(list_folder, tmp_path / "train").startswith(expected)
    assert len(list_folder(tmp_path / "test")) == 2
    assert "(it holds: test, train)" in message(find_root, tmp_path, "table.csv", (), "")
    assert message(find_root, tmp_path / "train" / "b", "table.csv", (), "").startswith(expected)


def test_a_link_that_leads_in_a_circle(tmp_path):
    try:
        (tmp_path / "round").symlink_to(tmp_path / "round")
    except OSError:
        pytest.skip("this file system has no links")
    (tmp_path / "person").mkdir()
    (tmp_path / "a.jpg").touch()
    content = scan(tmp_path)
    assert (content.images, content.folders, content.others) == (["a.jpg"], ["person"], ["round"])

"""Folders that hold more than photographs."""

import pytest

from datasets.folders import scan


def test_a_link_that_leads_in_a_circle(tmp_path):
    try:
        (tmp_path / "round").symlink_to(tmp_path / "round")
    except OSError:
        pytest.skip("this file system has no links")
    (tmp_path / "person").mkdir()
    (tmp_path / "a.jpg").touch()
    content = scan(tmp_path)
    assert (content.images, content.folders, content.others) == (["a.jpg"], ["person"], ["round"])

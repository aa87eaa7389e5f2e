"""Which grid a table of position embeddings belongs to."""

import pytest
import torch

from model.clip.positions import KnownGrid, pretraining_grid, resize_positions
from utils.errors import ReIDError


def test_clips_own_weights_are_square():
    assert [pretraining_grid(n) for n in (49, 196, 576)] == [(7, 7), (14, 14), (24, 24)]
    with pytest.raises(ReIDError, match="are of 128 patches; CLIP's own weights are for square images"):
        pretraining_grid(128)


@pytest.mark.parametrize("grid", [(16, 8), (8, 16), (12, 12), (18, 8), (16, 4), (21, 10)])
@pytest.mark.parametrize("target", [(16, 8), (8, 16), (14, 14)])
def test_a_recorded_grid_is_taken_whatever_the_images_are_now(grid, target):
    """288 x 128 pixels are 18 x 8 patches, which a guess takes for 12 x 12; 128 x 256 are 8 x 16, not 16 x 8."""
    assert KnownGrid.of({"grid": list(grid)}).source(grid[0] * grid[1], target) == grid
    assert KnownGrid.of({"grid": list(grid)}, [5, 5]).source(grid[0] * grid[1], target) == grid


@pytest.mark.parametrize("record", [{}, {"grid": [3, 5]}, {"grid": "16 x 8"}, {"grid": ["16", "8"]}])
@pytest.mark.parametrize(
    ("count", "target", "expected"),
    [
        (128, (16, 8), (16, 8)),  # published files of people, and of vehicles
        (210, (21, 10), (21, 10)),
        (256, (16, 16), (16, 16)),
        (128, (8, 16), None),  # as many as 16 x 8
        (144, (16, 8), None),  # 12 x 12 or 18 x 8
        (64, (16, 8), None),
        (196, (16, 8), None),
    ],
)
def test_without_a_record_only_what_cannot_be_otherwise_is_taken(count, target, expected, record):
    if expected:
        assert KnownGrid.of(record).source(count, target) == expected
        return
    with pytest.raises(ReIDError, match=rf"of {count} patches, and it does not record.*MODEL.POSITION_GRID"):
        KnownGrid.of(record).source(count, target)
    side = (18, 8) if count == 144 else (count // 8, 8)
    if side[0] * side[1] == count:
        assert KnownGrid.of(record, side).source(count, target) == side
    with pytest.raises(ReIDError, match=r"MODEL.POSITION_GRID = \[5, 5\]: .*of \d+ patches"):
        KnownGrid.of(record, [5, 5]).source(count, target)


def test_a_table_of_another_shape_is_another_table_though_it_has_as_many_rows():
    """Resized from 16 x 8 to 8 x 16, no position is where it was read as 8 x 16."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(8.0), indexing="ij")
    table = torch.cat([torch.zeros(1, 2), torch.stack([rows.flatten() / 16, columns.flatten() / 8], 1)])
    found = resize_positions(table, (8, 16), (16, 8))[1:].reshape(8, 16, 2)
    assert (found[:, :, 0].diff(dim=1).abs() < 1e-6).all() and (found[:, :, 1].diff(dim=0).abs() < 1e-6).all()
    assert (found[:, :, 0].diff(dim=0) > 0.05).all() and (found[:, :, 1].diff(dim=1) >= 0).all()

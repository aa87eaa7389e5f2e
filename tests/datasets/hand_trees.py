"""Small folder trees and tables for the tests of the hand data sets."""

import os
from pathlib import Path

import pytest

from utils.errors import ReIDError

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Real photographs, beside the repository on some machines; never committed."""


def plant(root: Path, *paths: str) -> Path:
    """Make files that no reader may open as an image; their content is their path, so that none are equal."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(os.fsencode(path))
    return root


def shared(name: str) -> Path:
    """Real data, or a skip that names what is missing."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"real data not present: ../shared/data/{name}")
    return folder


def message(make, *args, **kwargs) -> str:
    """The text of the ReIDError that ``make`` must raise."""
    with pytest.raises(ReIDError) as caught:
        make(*args, **kwargs)
    return str(caught.value)


def names(records, identities, root: Path) -> list[tuple[str, str]]:
    """Relative paths and identity names, for comparing with what a person reads off the tree."""
    return [(Path(r.path).relative_to(root).as_posix(), identities[r.pid]) for r in records]

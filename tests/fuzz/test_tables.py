"""Any bytes as a listing, CSV or JSON: rows, or one clear message. What is read can be written and read again."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.parsing.splits import SPLITS, SplitRow, read_split, write_split
from tests.fuzzing import fuzz
from utils.errors import ReIDError

CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["a.jpg", "../a.jpg", "/a", "C:\\a", "\0", "=1+1", '"', "", " ", "9" * 5000, "\ud800", "\ufeff", *SPLITS]
    ),
)
NAMES = st.sampled_from(["path", "identity", "split", "camera", "view", "other", " path", "PATH", ""])
ROWS = st.lists(st.tuples(st.sampled_from([f"{i}.jpg" for i in range(9)]), CELLS, st.sampled_from(SPLITS)), max_size=5)


def as_csv(header, rows):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


GOOD_HEADER = st.just(["path", "identity", "split"])
CSV = st.one_of(
    st.binary(max_size=200),
    st.builds(as_csv, GOOD_HEADER, ROWS),
    st.builds(as_csv, st.lists(NAMES, max_size=6), st.lists(st.lists(CELLS, max_size=6), max_size=5)),
    st.lists(
        st.sampled_from([*',;"\n\r\t\0 ', "path", "identity", "split", "train", "a.jpg", "\ufeff"]), max_size=40
    ).map(lambda pieces: "".join(pieces).encode()),
)
VALUES = st.recursive(
    st.one_of(CELLS, st.integers(), st.floats(), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELLS, inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.lists(st.dictionaries(NAMES, VALUES, max_size=5) | VALUES, max_size=4)
JSON = st.one_of(
    st.binary(max_size=200),
    ROWS.map(lambda rows: [dict(zip(("path", "identity", "split"), row, strict=True)) for row in rows]).map(json.dumps),
    ENTRIES.map(json.dumps),
    VALUES.map(json.dumps),
    st.lists(
        st.sampled_from([*'[]{}:,"\\', "\\u0000", "\\ud800", "1e999", "NaN", '"path"', "-", "null"]), max_size=40
    ).map("".join),
).map(lambda content: content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("ending", ["csv", "json"])
@fuzz(80)
@given(st.data())
def test_any_table(tmp_path, ending, data):
    content = bytearray(data.draw(CSV if ending == "csv" else JSON, label="content"))
    for place, value in data.draw(
        st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=2), label="damage"
    ):
        content[int(place * max(len(content) - 1, 0)) : 1] = bytes([value])
    path = tmp_path / f"table.{ending}"
    path.write_bytes(content)
    try:
        rows = read_split(path)
    except ReIDError as error:
        assert path.name in str(error)
        return
    assert rows and all(isinstance(row, SplitRow) and ".." not in row.path.split("/") for row in rows)
    write_split(tmp_path / "again.csv", rows)
    assert read_split(tmp_path / "again.csv") == rows

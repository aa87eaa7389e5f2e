"""Any command line and any damaged recipe: a configuration that can be written and read again, or one clear message."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from configs import get_defaults, load_config
from processor.runs.folder import flatten
from tests.fuzzing import fuzz
from utils.errors import ReIDError

RECIPES = sorted(Path(__file__).parents[2].glob("configs/**/*.yml"))
KEYS = sorted(flatten(get_defaults()))
WORDS = st.one_of(
    st.text(max_size=10),
    st.sampled_from(
        ["True", "no", "[1, 2]", "(1,", "1e999", "-1", "0", "None", "{}", "lambda: 0", "9" * 5000, "((" * 99, "\0"]
    ),
    st.sampled_from(
        ["\udcff", "1_000", "0x10", "1j", "b'x'", "'a' 'b'", "[[1]]", "...", "X X X X", "\u0663", "\u2028"]
    ),
)
PAIRS = st.lists(st.tuples(st.sampled_from(KEYS) | WORDS, WORDS), max_size=4)


@fuzz(150)
@given(PAIRS, st.lists(WORDS, max_size=1))
def test_any_command_line(tmp_path, pairs, rest):
    try:
        cfg, _ = load_config(None, [*(word for pair in pairs for word in pair), *rest])
    except ReIDError as error:
        assert str(error)
        return
    (tmp_path / "config.yml").write_bytes(cfg.dump().encode())
    assert load_config(tmp_path / "config.yml")[0] == cfg


@fuzz(60)
@given(
    st.sampled_from(RECIPES), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3), st.integers(0, 9)), max_size=4)
)
def test_any_damaged_recipe(tmp_path, recipe, damage):
    """Pieces replaced by others, as long or not."""
    content = recipe.read_bytes()
    for place, piece, length in damage:
        start = int(place * len(content))
        content = content[:start] + piece + content[start + length :]
    path = tmp_path / "recipe.yml"
    path.write_bytes(content.replace(b"_BASE_: ", f"_BASE_: {recipe.parent}/".encode()))
    try:
        cfg, _ = load_config(path)
    except ReIDError as error:
        assert str(error)
    else:
        assert cfg.is_frozen()

"""Random tensors under random names as a checkpoint: the model computes numbers, or there is one clear message."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import DataFacts, make_model, make_test_model
from model.base import Batch
from tests.fuzzing import fuzz
from tests.model.test_loading import config
from tests.model.weight_files import clip_tensors, small_model
from utils.errors import ReIDError

MODEL = small_model()
FILES = {"checkpoint": MODEL.state_dict(), "clip": clip_tensors(MODEL)}
MOST = 300_000
"""Values of a tensor: 64 or 65 in five dimensions would be gigabytes."""
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 5, 64, 65]), max_size=5).filter(lambda shape: math.prod(shape) <= MOST)
TENSORS = st.one_of(
    SHAPES.map(torch.zeros),
    SHAPES.map(lambda shape: torch.zeros(shape, dtype=torch.int64)),
    st.sampled_from(
        [torch.tensor(float("nan")), torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.complex64)]
    ),
)


@pytest.mark.parametrize("kind", sorted(FILES))
@fuzz(25)
@given(st.data())
def test_any_tensors(tmp_path, kind, data):
    state = dict(FILES[kind])
    names = st.sampled_from(sorted(state))
    for name in data.draw(st.lists(names, max_size=3), label="left out"):
        state.pop(name, None)
    for name in data.draw(st.lists(names, max_size=2), label="emptied"):
        state[name] = torch.zeros([0] * data.draw(st.integers(0, 5)))
    state |= data.draw(st.dictionaries(names | st.text(max_size=5), TENSORS, max_size=3), label="put in")
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    for build in (
        lambda: make_test_model(config(TEST__WEIGHT=path), DataFacts(1, views=1)),
        lambda: make_model(config(MODEL__PRETRAIN_PATH=path), DataFacts(3, 1, 1, sentence="A photo of a {} person.")),
    ):
        try:
            model = build()
        except ReIDError as error:
            assert str(error)
        else:
            assert model.eval().test_feature(Batch(torch.zeros(1, 3, 64, 64))).ndim == 2

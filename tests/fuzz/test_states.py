"""Any bytes as a state to resume from, with a manifest that fits or not: this state, the one before, or none."""

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from processor.runs.run import Run, TrainingProgress
from processor.runs.states import TrainingStates, _sha256
from tests.fuzzing import fuzz
from utils.compute.device import Precision
from utils.compute.seed import RngState
from utils.errors import ReIDError


def saved(content, zipped=True):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


SETTINGS = {"SOLVER.SEED": 1, "SOLVER.STAGES": [1, 2], "MODEL.NAME": "RN50"}
WHOLE = {
    "settings": SETTINGS,
    "position": [2, 1, 3, False],
    "history": [{"stage": 1, "epoch": 1, "loss": 0.5}],
    "results": {"untrained": {"mAP": 3.0}},
    "best": {},
    "seconds": 3.0,
    "data": "abc",
    "parts": {"model": torch.nn.Linear(2, 2).state_dict(), "random": {"cpu": torch.get_rng_state()}},
}
FILES = [saved(WHOLE), saved(WHOLE, zipped=False)]
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just(torch.ones(2)))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def plant(folder, content, fits=True, manifest=None):
    folder.mkdir(exist_ok=True)
    path = folder / "state_000002.pt"
    path.write_bytes(content)
    facts = json.dumps({"bytes": len(content), "sha256": _sha256(path) if fits else "0" * 64}).encode()
    path.with_suffix(".json").write_bytes(facts if manifest is None else manifest)


def damaged(content, damage, kept):
    content = bytearray(content)
    for place, value in damage:
        content[int(place * (len(content) - 1))] = value
    return bytes(content[: int(kept * len(content))])


@fuzz(60)
@given(
    st.one_of(
        st.binary(max_size=100),
        st.builds(damaged, st.sampled_from(FILES), DAMAGE, st.sampled_from([1.0, 1.0, 1.0, 0.999, 0.5, 0.0])),
    ),
    st.one_of(st.none(), st.none(), st.binary(max_size=60), TREES.map(str).map(str.encode)),
    st.booleans(),
)
def test_any_bytes(tmp_path, content, manifest, fits):
    """Even where the checksum is forged, too, only plain tensors and numbers are read."""
    plant(tmp_path / "resume", content, fits, manifest)
    found = TrainingStates(tmp_path / "resume").load()
    assert found is None or fits or manifest is not None


@fuzz(80)
@given(
    st.one_of(TREES, st.builds(lambda key, value: WHOLE | {key: value}, st.sampled_from(sorted(WHOLE)), TREES)), TREES
)
def test_any_content(tmp_path, content, part):
    """A run resumes from a state of the same configuration; otherwise it reports the error."""
    if isinstance(content, dict) and isinstance(content.get("parts"), dict):
        content = content | {"parts": content["parts"] | {"model": part, "random": part}}
    plant(tmp_path / "resume", saved(content))
    precision = Precision(torch.device("cpu"), torch.float32)
    run = Run(precision, Path(tmp_path), SETTINGS)
    model = torch.nn.Linear(2, 2)
    before = torch.get_rng_state()
    try:
        run.resume("auto")
        run.check_data([])
        run.restore({"model": model, "random": RngState(precision.device)})
    except ReIDError as error:
        assert str(tmp_path) in str(error)
    finally:
        torch.set_rng_state(before)


def test_a_diverged_model_does_not_take_the_place_of_a_good_state(tmp_path):
    run = Run(Precision(torch.device("cpu"), torch.float32), Path(tmp_path), SETTINGS)
    model = torch.nn.Linear(2, 2)
    run.save(TrainingProgress(2, 1, 3), {"model": model})
    torch.nn.init.constant_(model.bias, torch.inf)
    with pytest.raises(ReIDError, match=r"stage 2 epoch 1, iteration 4: .* 1 of 2 tensors .* first bias.*RESUME never"):
        run.save(TrainingProgress(2, 1, 4), {"model": model})
    assert run.states.load()["position"] == [2, 1, 3, False]


def test_the_whole_state_would_be_taken_up(tmp_path):
    plant(tmp_path / "resume", FILES[0])
    run = Run(Precision(torch.device("cpu"), torch.float32), Path(tmp_path), SETTINGS)
    run.resume("auto")
    run.restore({"model": torch.nn.Linear(2, 2)})
    assert run.position == (2, 1, 3, False) and run.unclaimed.keys() == {"random"}
    with pytest.raises(ReIDError, match="other images, labels or key points"):
        run.check_data([])

"""What a run resumes from, and what it refuses to resume."""

import pytest
import torch
from torch import nn

from configs import get_defaults
from processor.runs.folder import flatten
from processor.runs.run import Run, TrainingProgress
from utils.compute.device import Precision
from utils.errors import ReIDError

CPU = Precision(torch.device("cpu"), torch.float32)


def make_run(folder, **settings):
    values = flatten(get_defaults()) | {"OUTPUT_DIR": str(folder)}
    return Run(CPU, folder, values | {key.replace("__", "."): value for key, value in settings.items()})


def saved(folder, change=lambda settings: None, **settings):
    """The folder of an interrupted run, whose settings ``change`` alters as an older version would have kept them."""
    run = make_run(folder, **settings)
    change(run.settings)
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(100))])
    parts = {"model": nn.Linear(3, 2), "optimizer0": optimizer}
    for epoch in (1, 2):
        run.save(TrainingProgress(2, epoch, 4, ended=True), parts)
    return run


@pytest.mark.parametrize("word", ["Never", "never ", "nevr", "None", "NEVER", "Auto"])
@pytest.mark.parametrize("interrupted", [True, False])
def test_a_misspelt_word_is_refused_and_not_resumed(tmp_path, word, interrupted):
    if interrupted:
        saved(tmp_path)
    run = make_run(tmp_path)
    with pytest.raises(
        ReIDError, match=r"RESUME = .*: expected auto, never or the OUTPUT_DIR of another run"
    ) as caught:
        run.resume(word)
    hint = {"A": "Did you mean auto?"}.get(word[0], "Did you mean never?")
    assert hint in str(caught.value) or word == "None"


def test_a_folder_that_is_gone_may_have_been_the_start(tmp_path):
    """The same command resumes, even if the folder that it named is missing."""
    saved(tmp_path / "run", RESUME=str(tmp_path / "gone"))
    run = make_run(tmp_path / "run")
    run.resume(str(tmp_path / "gone"))
    assert run.position == (2, 2, 4, True)
    with pytest.raises(ReIDError, match="expected auto, never or"):
        make_run(tmp_path / "run").resume(str(tmp_path / "other"))


def test_another_folder_that_is_not_used_is_named(tmp_path, caplog):
    for name in ("run", "other"):
        saved(tmp_path / name)
    run = make_run(tmp_path / "run")
    run.resume(str(tmp_path / "other"))
    assert run.position.epoch == 2 and "is not used" in caplog.text


def test_a_state_from_before_a_key_existed(tmp_path):
    saved(tmp_path, lambda settings: settings.pop("SOLVER.COMPILE"))
    make_run(tmp_path).resume("auto")
    with pytest.raises(ReIDError, match=r"SOLVER.COMPILE: False -> True"):
        make_run(tmp_path, SOLVER__COMPILE=True).resume("auto")


def test_a_state_with_an_old_name_of_a_key(tmp_path):
    old, new = "SOLVER.STAGE2.ACCUMULATE", "SOLVER.STAGE2.MICRO_BATCHES"
    saved(tmp_path, lambda settings: settings.update({old: settings.pop(new)}))
    make_run(tmp_path).resume("auto")
    with pytest.raises(ReIDError, match=rf"{new}: 1 -> 2"):
        make_run(tmp_path, SOLVER__STAGE2__MICRO_BATCHES=2).resume("auto")


def test_a_state_with_a_key_that_is_gone(tmp_path):
    saved(tmp_path, lambda settings: settings.update({"SOLVER.OLD": 3}))
    with pytest.raises(ReIDError, match=r"SOLVER.OLD: 3, a key of another version.*Resume with the version that"):
        make_run(tmp_path).resume("auto")


def test_a_state_whose_paths_were_not_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    saved(tmp_path, lambda settings: settings.update({"MODEL.PRETRAIN_PATH": "~/a.pt"}))
    make_run(tmp_path, MODEL__PRETRAIN_PATH="/home/somebody/a.pt").resume("auto")


def test_training_longer_names_the_way(tmp_path):
    saved(tmp_path)
    with pytest.raises(ReIDError, match=r"MAX_EPOCHS: 100 -> 120.*train on from its weights.*MODEL.PRETRAIN_PATH"):
        make_run(tmp_path, SOLVER__STAGE2__MAX_EPOCHS=120).resume("auto")


def test_a_finished_run_keeps_its_model_alone(tmp_path):
    run = saved(tmp_path)
    before = sum(path.stat().st_size for path in run.states.folder.iterdir())
    expected = run.states.load()
    run.finish()
    assert len(list(run.states.folder.iterdir())) == 2
    assert sum(path.stat().st_size for path in run.states.folder.iterdir()) < before / 2
    again = make_run(tmp_path)
    again.resume("auto")
    model = nn.Linear(3, 2)
    again.restore({"model": model})
    assert again.position == (2, 2, 4, True)
    assert all(torch.equal(tensor, expected["parts"]["model"][name]) for name, tensor in model.state_dict().items())
    files = {path: path.stat().st_mtime_ns for path in run.states.folder.iterdir()}
    again.finish()
    assert files == {path: path.stat().st_mtime_ns for path in run.states.folder.iterdir()}, "nothing is written again"

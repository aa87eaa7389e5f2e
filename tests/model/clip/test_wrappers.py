"""State dicts as training scripts save them: in groups, wrapped, averaged, sharded."""

import logging

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from model.clip.weights import read_reid_checkpoint, read_state_dict
from tests.model.weight_files import small_model
from utils.console.logger import LOGGER
from utils.errors import ReIDError

ONE = {"image_encoder.conv1.weight": torch.ones(2, 3, 4, 4), "classifier.weight": torch.ones(3, 2)}
TWO = {name: tensor * 2 for name, tensor in ONE.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def read(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    return read_state_dict(tmp_path / "w.pth")


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, LOGGER.name)
    LOGGER.addHandler(caplog.handler)
    yield caplog
    LOGGER.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    "group", ["state_dict", "model", "module", "net", "network", "model_ema", "ema", "state_dict_ema", "backbone"]
)
@pytest.mark.parametrize("beside", [{}, {"optimizer": OPTIMIZER, "optimizer_state_dict": ONE, "epoch": 3, "args": {}}])
def test_the_only_model_in_a_file_is_read_whatever_its_group_is_called(tmp_path, group, beside):
    found = read(tmp_path, beside | {group: TWO})
    assert found.keys() == TWO.keys() and all(torch.equal(found[name], TWO[name]) for name in TWO)


@pytest.mark.parametrize("average", ["model_ema", "ema", "state_dict_ema"])
def test_the_model_comes_before_its_average_and_the_log_names_both(tmp_path, said, average):
    found = read(tmp_path, {average: TWO, "model": ONE})
    assert found["classifier.weight"].max() == 1
    assert f"group model is read; it also holds {average} (2 tensors)" in said.text


def test_a_group_that_holds_no_tensors_is_not_the_model(tmp_path):
    assert read(tmp_path, {"model": {"name": "ViT-B-16", "width": 768}, "net": ONE}).keys() == ONE.keys()


def test_nested_groups(tmp_path):
    assert read(tmp_path, {"checkpoint": {"epoch": 3, "model": {"state_dict": ONE}}}).keys() == ONE.keys()


def test_a_dictionary_that_contains_itself_ends(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    with pytest.raises(ReIDError, match="no tensors in this file"):
        read(tmp_path, content)


@pytest.mark.parametrize("groups", [("student", "teacher"), ("generator", "discriminator"), ("ema", "ema_2")])
def test_several_models_are_named(tmp_path, groups):
    with pytest.raises(ReIDError) as caught:
        read(tmp_path, dict.fromkeys(groups, ONE) | {"optimizer": OPTIMIZER})
    assert f"{groups[0]} (2 tensors), {groups[1]} (2 tensors)" in str(caught.value)
    assert "there are no tensors" not in str(caught.value) and "w.pth" in str(caught.value)


def test_the_state_of_an_interrupted_run(tmp_path):
    state = {"settings": {}, "position": [2, 1, 0, False], "history": [], "parts": {"model": ONE, "scaler": {}}}
    with pytest.raises(ReIDError, match=r"saved state of an interrupted run.*Name a checkpoint in the folder above"):
        read(tmp_path, state)


def test_a_file_without_tensors_names_what_it_holds(tmp_path):
    with pytest.raises(ReIDError, match=r"no tensors.*It holds 'epoch', 'names'"):
        read(tmp_path, {"epoch": 3, "names": ["a"]})


# Wrappers.


KINDS = ("compile", "compile in DataParallel", "DataParallel", "checkpoint_wrapper", "FSDP", "Lightning")


def wrapped_parts():
    """DataParallel and activation checkpointing with their real tools; by their names the others, slow to import."""
    plain = small_model().state_dict()
    compiled = small_model()
    compiled.image_encoder = nn.ModuleDict({"_orig_mod": compiled.image_encoder})
    parallel = small_model()
    parallel.image_encoder = nn.DataParallel(parallel.image_encoder)
    checkpointed = small_model()
    blocks = checkpointed.image_encoder.transformer.resblocks
    for i, block in enumerate(blocks):
        blocks[i] = checkpoint_wrapper(block)
    both = nn.DataParallel(compiled)
    return {
        "compile": compiled.state_dict(),
        "compile in DataParallel": both.state_dict(),
        "DataParallel": parallel.state_dict(),
        "checkpoint_wrapper": {  # its own state_dict takes the prefix out; other tools' do not
            name.replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module."): tensor
            for name, tensor in checkpointed.state_dict().items()
        },
        "FSDP": {"_fsdp_wrapped_module." + n.replace(".", "._fsdp_wrapped_module.", 1): t for n, t in plain.items()},
        "Lightning": {f"_forward_module.{name}": tensor for name, tensor in plain.items()},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_wrappers_inside_names(tmp_path, kind):
    plain, wrapped = small_model().state_dict(), wrapped_parts()[kind]
    assert wrapped.keys() != plain.keys()
    torch.save(wrapped, tmp_path / "w.pth")
    found = read_reid_checkpoint(tmp_path / "w.pth")
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_a_part_of_the_network_that_is_called_module_keeps_its_name(tmp_path):
    """timm's iFormer has such parts, further inside or beside others."""
    names = ["stages.0.cpe.module.weight", "stages.0.norm.weight", "stem.module.weight", "stem.norm.weight"]
    assert list(read(tmp_path, dict.fromkeys(names, torch.ones(1)))) == names


def test_flattened_parameters_of_fsdp(tmp_path):
    flat = {"_fsdp_wrapped_module._flat_param": torch.ones(9), "_fsdp_wrapped_module.a._flat_param": torch.ones(9)}
    with pytest.raises(ReIDError, match=r"vector of many parameters.*FULL_STATE_DICT"):
        read(tmp_path, flat)


def test_two_models_under_one_name(tmp_path):
    with pytest.raises(ReIDError, match=r"holds both a\._orig_mod\.b and a\.b"):
        read(tmp_path, {"a._orig_mod.b": torch.ones(1), "a.b": torch.zeros(1)})


# What a checkpoint records of itself.


def test_the_record_of_a_checkpoint_survives_both_formats(tmp_path):
    from safetensors.torch import save_file

    state = small_model().state_dict()
    state._metadata["reid"] = {"method": "clipreid", "grid": [4, 4]}
    torch.save(state, tmp_path / "w.pth")
    save_file(dict(ONE), tmp_path / "w.safetensors", {"reid": '{"grid": [4, 4]}', "format": "pt"})
    assert read_state_dict(tmp_path / "w.pth").record == {"method": "clipreid", "grid": [4, 4]}
    assert read_state_dict(tmp_path / "w.safetensors").record == {"grid": [4, 4]}


@pytest.mark.parametrize("header", ["", "{", "[1, 2]", '"text"', "[" * 100_000])
def test_a_record_that_cannot_be_read_is_none(tmp_path, header):
    from safetensors.torch import save_file

    save_file(dict(ONE), tmp_path / "w.safetensors", {"reid": header})
    assert read_state_dict(tmp_path / "w.safetensors").record == {}

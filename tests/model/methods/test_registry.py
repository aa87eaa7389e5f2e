"""A method's limits are checked before any data is read."""

import logging
from pathlib import Path

import pytest

from configs import load_config
from model.methods.registry import METHODS, check_method
from tests.model.methods.toy import build, config
from utils.console.logger import LOGGER
from utils.errors import ReIDError

ROOT = Path(__file__).resolve().parents[3]
NOTED = {
    **dict.fromkeys(("aaformer", "pat"), "reconstruction, no published number"),
    **dict.fromkeys(("autoreid", "cdnet"), "without the architecture search"),
    **dict.fromkeys(("dcal", "promptsg"), "no published code"),
    **dict.fromkeys(("gpa_net", "laga_net"), "inferred"),
    "cilp_fgdi": "optimiser of its own",
    "horeid": "verifier",
    "san": "joint optimisation",
}
"""What the log of a training says of the methods that are not wholly the published ones."""


def check(overrides):
    cfg, _ = load_config(None, overrides.split("|"))
    check_method(cfg)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("MODEL.METHOD|clip-reid", "MODEL.METHOD = 'clip-reid' Did you mean clipreid?"),
        ("MODEL.METHOD|baseline", "SOLVER.STAGES = [1, 2] MODEL.METHOD baseline [2]"),
        ("SOLVER.STAGES|[2]", "SOLVER.STAGES = [2] MODEL.STAGE1_WEIGHT checkpoint"),
        ("SOLVER.STAGES|[]", "SOLVER.STAGES = [] [0, 1, 2]"),
        ("MODEL.STAGE1_WEIGHT|some.pth", "MODEL.STAGE1_WEIGHT = some.pth SOLVER.STAGES = [1, 2] [2]"),
        ("SOLVER.STAGES|[1]|MODEL.SIE_CAMERA|True", "MODEL.SIE_CAMERA SOLVER.STAGES = [1] stage 2"),
        ("MODEL.METHOD|zeroshot|SOLVER.STAGES|[]|MODEL.SIE_VIEW|True", "SIE_VIEW SOLVER.STAGES = [] False"),
        (
            "TEST.FEATURE|projected|MODEL.METHOD|baseline|SOLVER.STAGES|[2]|MODEL.NAME|timm/resnet18",
            "TEST.FEATURE both",
        ),
        ("MODEL.PROMPT|A photo of a hand.", "MODEL.PROMPT = 'A photo of a hand.' one X X X X X"),
        ("MODEL.PROMPT|A X photo of a X hand.", "MODEL.PROMPT side by side"),
        (
            "MODEL.ID_LOSS_WEIGHT|0|MODEL.I2T_LOSS_WEIGHT|0",
            "MODEL.ID_LOSS_WEIGHT = MODEL.I2T_LOSS_WEIGHT = 0 softmax_triplet",
        ),
        (
            "MODEL.METHOD|baseline|SOLVER.STAGES|[2]|DATALOADER.SAMPLER|triplet|MODEL.TRIPLET_LOSS_WEIGHT|0",
            "MODEL.TRIPLET_LOSS_WEIGHT = 0",
        ),
    ],
)
def test_what_cannot_work_is_refused(overrides, words):
    with pytest.raises(ReIDError) as error:
        check(overrides)
    for word in words.split():
        assert word in str(error.value), f"{word!r} is not in {error.value}"


@pytest.mark.parametrize(
    "overrides",
    [
        "MODEL.PROMPT|X",
        "SOLVER.STAGES|[2]|MODEL.STAGE1_WEIGHT|some.pth",
        "MODEL.ID_LOSS_WEIGHT|0",
        "MODEL.METHOD|pcl|SOLVER.STAGES|[2]|MODEL.TEXT_LOSS|none|MODEL.ID_LOSS_WEIGHT|0",
        "MODEL.ID_LOSS_WEIGHT|0|MODEL.I2T_LOSS_WEIGHT|0|MODEL.IF_WITH_CENTER|yes",
        "MODEL.ID_LOSS_WEIGHT|0|MODEL.I2T_LOSS_WEIGHT|0|SOLVER.STAGES|[1]",
    ],
)
def test_valid_settings_are_accepted(overrides):
    check(overrides)


@pytest.mark.parametrize("folder", ["hand", "person"])
def test_every_method_has_a_recipe_and_each_recipe_passes(folder):
    recipes = [load_config(path)[0] for path in sorted(ROOT.glob(f"configs/{folder}/*.yml"))]
    for cfg in recipes:
        check_method(cfg)
    assert {cfg.MODEL.METHOD for cfg in recipes} == METHODS.keys()


@pytest.mark.parametrize("name", NOTED)
def test_the_log_says_what_is_not_the_published_method(name, caplog):
    caplog.set_level(logging.INFO, LOGGER.name)
    build(config(name))
    assert [line for line in caplog.messages if line.startswith(f"MODEL.METHOD {name}: ") and NOTED[name] in line]


def test_the_log_says_nothing_of_the_others():
    assert {name for name, method in METHODS.items() if method.note} == NOTED.keys()

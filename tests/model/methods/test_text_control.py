"""The control with shuffled sentences: in stage 2 each identity has the sentence of another one."""

import pytest
import torch

from model import check_method
from model.base import Progress
from model.methods.clipreid import others
from tests.model.methods.toy import Images, build, config, toy_batch
from utils.errors import ReIDError


@pytest.mark.parametrize("count", [2, 3, 50])
def test_no_identity_keeps_its_own_sentence(count):
    found = others(count, 7)
    assert sorted(found.tolist()) == list(range(count)) and not (found == torch.arange(count)).any()
    assert torch.equal(found, others(count, 7)) and (count < 50 or not torch.equal(found, others(count, 8)))


def test_stage_two_reads_the_sentences_of_others():
    texts = {}
    for control in ("none", "shuffled"):
        cfg = config("clipreid", "MODEL.TEXT_CONTROL", control, "SOLVER.SEED", "5")
        method = build(cfg).eval()
        with torch.no_grad():
            method.begin_epoch(Images(method, toy_batch(cfg)), Progress(2, 1))
            assert torch.equal(method.sentences()[0], method.sentences()[0])
        texts[control] = method.all_texts
        own = method.sentences().detach()
    assert torch.equal(texts["none"], own)
    assert torch.equal(texts["shuffled"], own[others(len(own), 5)])


@pytest.mark.parametrize(
    ("recipe", "keys"),
    [
        ("baseline", ()),
        ("coop", ()),
        ("clipreid", ("MODEL.TEXT_LOSS", "none")),
        ("clipreid", ("MODEL.ONE_STAGE", "True", "MODEL.TEXT_LOSS", "i2t", "SOLVER.STAGES", "[2]")),
    ],
)
def test_where_it_would_do_nothing_it_is_refused(recipe, keys):
    cfg = config(recipe, *keys)
    cfg.defrost()
    cfg.MODEL.TEXT_CONTROL = "shuffled"
    with pytest.raises(ReIDError, match=r"MODEL\.TEXT_CONTROL = shuffled .*none"):
        check_method(cfg)

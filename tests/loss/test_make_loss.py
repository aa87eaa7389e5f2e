from itertools import product

import pytest
import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from loss import (
    MARGIN_HEADS,
    ArcFace,
    CenterLoss,
    CrossEntropyLabelSmooth,
    Stage2Loss,
    TripletLoss,
    make_loss,
)
from utils.errors import ReIDError

INPUTS = ["comp.score0", "comp.score1", "comp.feat0", "comp.feat1", "comp.feat2", "comp.i2t"]
COMPOSITIONS = {
    "comp_vit": {"id_weight": 0.25},
    "comp_cnn": {},
    "comp_vit_no_i2t": {"id_weight": 0.25},
    "comp_nols_cnn": {"label_smoothing": 0.0},
    "comp_vit_softmargin": {"id_weight": 0.25, "margin": None},
}


@pytest.mark.parametrize("case", COMPOSITIONS)
def test_golden(golden, case):
    tensors = dict(zip(INPUTS, golden.inputs(*INPUTS), strict=True))
    if case.endswith("no_i2t"):
        del tensors["comp.i2t"]
    score0, score1, feat0, feat1, feat2, *i2t = tensors.values()
    (labels,) = golden.inputs("comp.labels")
    loss = Stage2Loss(**COMPOSITIONS[case])
    total, parts = loss([score0, score1], [feat0, feat1, feat2], labels, *i2t)
    gradients = {name.replace("comp.", "grad_"): tensor for name, tensor in tensors.items()}
    golden.check_loss_and_gradients(case, total, gradients)
    assert list(parts) == (["id", "triplet", "i2t"] if i2t else ["id", "triplet"])
    torch.testing.assert_close(sum(parts.values()), total.detach())
    assert not any(part.requires_grad for part in parts.values())


def config(**changes):
    cfg = CfgNode(
        {
            "MODEL": {
                "ID_LOSS_TYPE": "softmax",
                "ID_LOSS_WEIGHT": 0.25,
                "TRIPLET_LOSS_WEIGHT": 1.0,
                "I2T_LOSS_WEIGHT": 1.0,
                "METRIC_LOSS_TYPE": "triplet",
                "IF_WITH_CENTER": "no",
                "NO_MARGIN": False,
                "IF_LABELSMOOTH": "on",
            },
            "DATALOADER": {"SAMPLER": "softmax_triplet"},
            "SOLVER": {
                "MARGIN": 0.3,
                "STAGE2": {"CENTER_LOSS_WEIGHT": 5e-4, "COSINE_MARGIN": 0.5, "COSINE_SCALE": 30.0},
            },
        }
    )
    cfg.merge_from_list([x for key, value in changes.items() for x in (key.replace("__", "."), value)])
    return cfg


def batch(labels=(0, 0, 1, 1, 2, 2), num_classes=4):
    torch.manual_seed(0)
    size = len(labels)
    scores = [(torch.rand(size, num_classes) * 2 - 1).requires_grad_() for _ in range(2)]
    features = [torch.randn(size, width, requires_grad=True) for width in (6, 6, 3)]
    return scores, features, torch.tensor(labels), torch.randn(size, num_classes, requires_grad=True)


CHOICES = {
    "MODEL.ID_LOSS_TYPE": ["softmax", *MARGIN_HEADS],
    "MODEL.METRIC_LOSS_TYPE": ["triplet", "center", "triplet_center"],
    "MODEL.IF_WITH_CENTER": ["yes", "no"],
    "MODEL.NO_MARGIN": [True, False],
    "MODEL.IF_LABELSMOOTH": ["on", "off"],
    "DATALOADER.SAMPLER": ["softmax", "softmax_triplet", "triplet"],
}


@pytest.mark.parametrize("sampler", CHOICES.pop("DATALOADER.SAMPLER"))
@pytest.mark.parametrize("with_text", [True, False])
def test_every_combination_trains(sampler, with_text):
    for values in product(*CHOICES.values()):
        chosen = dict(zip(CHOICES, values, strict=True))
        cfg = config(**{"DATALOADER__SAMPLER": sampler})
        cfg.merge_from_list([x for pair in chosen.items() for x in pair])
        scores, features, labels, i2t = batch()
        loss = make_loss(cfg, num_classes=4, feat_dim=6)
        total, parts = loss(scores, features, labels, i2t if with_text else None)

        metric = chosen["MODEL.METRIC_LOSS_TYPE"]
        center = "center" in metric or chosen["MODEL.IF_WITH_CENTER"] == "yes"
        expected = {"id"} if sampler != "triplet" else set()
        expected |= {"triplet"} if sampler != "softmax" and "triplet" in metric else set()
        expected |= {"center"} if center else set()
        expected |= {"i2t"} if with_text else set()
        assert set(parts) == expected, chosen

        total.backward()
        assert total.isfinite(), chosen
        trained = {
            "id": scores,
            "triplet": features,
            "i2t": [i2t],
            "center": [features[1], *(loss.center.parameters() if center else [])],
        }
        for part in parts:
            for tensor in trained[part]:
                assert tensor.grad.isfinite().all() and tensor.grad.count_nonzero() > 0, (chosen, part)


@pytest.mark.parametrize("labels", [(0, 1, 2, 3), (1, 1, 1, 1), (0, 0, 0, 1, 2)])
def test_shuffled_batches_of_any_composition(labels):
    scores, features, labels, i2t = batch(labels)
    for sampler in ("softmax", "softmax_triplet"):
        total, _ = make_loss(config(DATALOADER__SAMPLER=sampler), 4, 6)(scores, features, labels, i2t)
        assert total.isfinite()


def test_the_configuration_reaches_the_terms():
    cfg = config(
        MODEL__ID_LOSS_TYPE="arcface",
        MODEL__ID_LOSS_WEIGHT=0.7,
        MODEL__TRIPLET_LOSS_WEIGHT=0.6,
        MODEL__I2T_LOSS_WEIGHT=0.5,
        MODEL__METRIC_LOSS_TYPE="triplet_center",
        MODEL__IF_LABELSMOOTH="off",
        SOLVER__MARGIN=0.4,
        SOLVER__STAGE2__CENTER_LOSS_WEIGHT=0.1,
        SOLVER__STAGE2__COSINE_MARGIN=0.2,
        SOLVER__STAGE2__COSINE_SCALE=10.0,
    )
    scores, features, labels, i2t = batch()
    loss = make_loss(cfg, num_classes=4, feat_dim=6)
    total, parts = loss(scores, features, labels, i2t)
    head = ArcFace(10.0, 0.2)
    expected = {
        "id": 0.7 * sum(F.cross_entropy(head(s, labels), labels) for s in scores),
        "triplet": 0.6 * sum(TripletLoss(0.4)(f, labels) for f in features),
        "i2t": 0.5 * F.cross_entropy(i2t, labels),
        "center": 0.1 * (features[1] - loss.center.centers[labels]).square().sum(1).mean(),
    }
    for name, part in expected.items():
        torch.testing.assert_close(parts[name], part.detach())
    torch.testing.assert_close(total, sum(expected.values()))


def test_smoothing_and_soft_margin_are_switched_by_their_keys():
    scores, features, labels, i2t = batch()
    _, parts = make_loss(config(MODEL__NO_MARGIN=True), 4, 6)(scores, features, labels, i2t)
    torch.testing.assert_close(parts["triplet"], sum(TripletLoss(None)(f, labels) for f in features).detach())
    torch.testing.assert_close(parts["i2t"], CrossEntropyLabelSmooth(0.1)(i2t, labels).detach())


def test_the_center_loss_has_the_width_and_place_of_the_final_feature():
    loss = make_loss(config(MODEL__IF_WITH_CENTER="yes"), num_classes=4, feat_dim=6)
    assert isinstance(loss.center, CenterLoss) and loss.center.centers.shape == (4, 6)
    assert "center.centers" in loss.state_dict()
    assert make_loss(config(), 4, 6).center is None


def test_centers_move_at_their_own_rate_whatever_the_weight():
    scores, features, labels, _ = batch()
    loss = Stage2Loss(id_weight=0, triplet_weight=0, center=CenterLoss(4, 6), center_weight=1e-3)
    total, parts = loss(scores, features, labels)
    plain = loss.center(features[1], labels)
    torch.testing.assert_close(total, 1e-3 * plain)
    assert parts["center"] == total
    inputs = [features[1], loss.center.centers]
    of_feature, of_centers = torch.autograd.grad(total, inputs)
    expected_of_feature, expected_of_centers = torch.autograd.grad(plain, inputs)
    torch.testing.assert_close(of_feature, 1e-3 * expected_of_feature)
    torch.testing.assert_close(of_centers, expected_of_centers)


def test_center_loss_of_weight_zero_is_not_built():
    cfg = config(MODEL__IF_WITH_CENTER="yes", SOLVER__STAGE2__CENTER_LOSS_WEIGHT=0.0)
    assert make_loss(cfg, 4, 6).center is None


def test_stage2_under_autocast_is_computed_in_float32():
    scores, features, labels, i2t = batch()
    halves = [[t.detach().bfloat16() for t in group] for group in (scores, features, [i2t])]
    loss = Stage2Loss(id_type="circle", center=CenterLoss(4, 6), center_weight=1.0)
    expected, _ = loss([t.float() for t in halves[0]], [t.float() for t in halves[1]], labels, halves[2][0].float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = loss(halves[0], halves[1], labels, halves[2][0])
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)


def test_unknown_id_loss_is_an_error():
    with pytest.raises(ReIDError, match=r"ID_LOSS_TYPE = 'sphere'.*softmax, arcface"):
        Stage2Loss(id_type="sphere")


def test_a_loss_without_terms_is_an_error():
    scores, features, labels, _ = batch()
    loss = Stage2Loss(id_weight=0, triplet_weight=0, i2t_weight=1.0)
    with pytest.raises(ReIDError, match="no loss term"):
        loss(scores, features, labels, None)

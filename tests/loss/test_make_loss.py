from itertools import product

import pytest
import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from loss import (
    MARGIN_HEADS,
    ArcFace,
    CenterLoss,
    Criterion,
    CrossEntropyLabelSmooth,
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
    terms = Criterion(**COMPOSITIONS[case])([score0, score1], [feat0, feat1, feat2], labels)
    assert list(terms) == ["id", "triplet"]
    if i2t:  # the method's own term, with the smoothing of the others
        smoothing = COMPOSITIONS[case].get("label_smoothing", 0.1)
        terms["i2t"] = F.cross_entropy(i2t[0], labels, label_smoothing=smoothing)
    total = sum(terms.values())
    gradients = {name.replace("comp.", "grad_"): tensor for name, tensor in tensors.items()}
    golden.check_loss_and_gradients(case, total, gradients)


def config(**changes):
    cfg = CfgNode(
        {
            "MODEL": {
                "ID_LOSS_TYPE": "softmax",
                "ID_LOSS_WEIGHT": 0.25,
                "TRIPLET_LOSS_WEIGHT": 1.0,
                "METRIC_LOSS_TYPE": "triplet",
                "IF_WITH_CENTER": "no",
                "NO_MARGIN": False,
                "IF_LABELSMOOTH": "on",
                "TRIPLET_NORM": False,
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
    return scores, features, torch.tensor(labels)


CHOICES = {
    "MODEL.ID_LOSS_TYPE": ["softmax", *MARGIN_HEADS],
    "MODEL.METRIC_LOSS_TYPE": ["triplet", "center", "triplet_center"],
    "MODEL.IF_WITH_CENTER": ["yes", "no"],
    "MODEL.NO_MARGIN": [True, False],
    "MODEL.IF_LABELSMOOTH": ["on", "off"],
    "DATALOADER.SAMPLER": ["softmax", "softmax_triplet", "triplet"],
}


@pytest.mark.parametrize("sampler", CHOICES.pop("DATALOADER.SAMPLER"))
def test_every_combination_trains(sampler):
    for values in product(*CHOICES.values()):
        chosen = dict(zip(CHOICES, values, strict=True))
        cfg = config(**{"DATALOADER__SAMPLER": sampler})
        cfg.merge_from_list([x for pair in chosen.items() for x in pair])
        scores, features, labels = batch()
        loss = make_loss(cfg, num_classes=4, feat_dim=6)
        parts = loss(scores, features, labels)

        metric = chosen["MODEL.METRIC_LOSS_TYPE"]
        center = "center" in metric or chosen["MODEL.IF_WITH_CENTER"] == "yes"
        expected = {"id"} if sampler != "triplet" else set()
        expected |= {"triplet"} if sampler != "softmax" and "triplet" in metric else set()
        expected |= {"center"} if center else set()
        assert set(parts) == expected, chosen

        if not parts:
            continue  # `softmax` has no triplet loss, `triplet` no ID loss; check_method refuses what has neither
        total = sum(parts.values())
        total.backward()
        assert total.isfinite(), chosen
        trained = {
            "id": scores,
            "triplet": features,
            "center": [features[1], *(loss.center.parameters() if center else [])],
        }
        for part in parts:
            for tensor in trained[part]:
                assert tensor.grad.isfinite().all() and tensor.grad.count_nonzero() > 0, (chosen, part)


@pytest.mark.parametrize("labels", [(0, 1, 2, 3), (1, 1, 1, 1), (0, 0, 0, 1, 2)])
def test_shuffled_batches_of_any_composition(labels):
    scores, features, labels = batch(labels)
    for sampler in ("softmax", "softmax_triplet"):
        terms = make_loss(config(DATALOADER__SAMPLER=sampler), 4, 6)(scores, features, labels)
        assert sum(terms.values()).isfinite()


def test_the_configuration_reaches_the_terms():
    cfg = config(
        MODEL__ID_LOSS_TYPE="arcface",
        MODEL__ID_LOSS_WEIGHT=0.7,
        MODEL__TRIPLET_LOSS_WEIGHT=0.6,
        MODEL__METRIC_LOSS_TYPE="triplet_center",
        MODEL__IF_LABELSMOOTH="off",
        SOLVER__MARGIN=0.4,
        SOLVER__STAGE2__CENTER_LOSS_WEIGHT=0.1,
        SOLVER__STAGE2__COSINE_MARGIN=0.2,
        SOLVER__STAGE2__COSINE_SCALE=10.0,
    )
    scores, features, labels = batch()
    loss = make_loss(cfg, num_classes=4, feat_dim=6)
    parts = loss(scores, features, labels)
    head = ArcFace(10.0, 0.2)
    expected = {
        "id": 0.7 * sum(F.cross_entropy(head(s, labels), labels) for s in scores),
        "triplet": 0.6 * sum(TripletLoss(0.4)(f, labels) for f in features),
        "center": 0.1 * (features[1] - loss.center.centers[labels]).square().sum(1).mean(),
    }
    for name, part in expected.items():
        torch.testing.assert_close(parts[name], part)


def test_smoothing_and_soft_margin_are_switched_by_their_keys():
    scores, features, labels = batch()
    parts = make_loss(config(MODEL__NO_MARGIN=True), 4, 6)(scores, features, labels)
    torch.testing.assert_close(parts["triplet"], sum(TripletLoss(None)(f, labels) for f in features))
    torch.testing.assert_close(parts["id"], 0.25 * sum(CrossEntropyLabelSmooth(0.1)(s, labels) for s in scores))


def test_the_center_loss_has_the_width_and_place_of_the_final_feature():
    loss = make_loss(config(MODEL__IF_WITH_CENTER="yes"), num_classes=4, feat_dim=6)
    assert isinstance(loss.center, CenterLoss) and loss.center.centers.shape == (4, 6)
    assert "center.centers" in loss.state_dict()
    assert make_loss(config(), 4, 6).center is None


def test_centers_move_at_their_own_rate_whatever_the_weight():
    scores, features, labels = batch()
    loss = Criterion(id_weight=0, triplet_weight=0, center=CenterLoss(4, 6), center_weight=1e-3)
    total = loss(scores, features, labels)["center"]
    plain = loss.center(features[1], labels)
    torch.testing.assert_close(total, 1e-3 * plain)
    inputs = [features[1], loss.center.centers]
    of_feature, of_centers = torch.autograd.grad(total, inputs)
    expected_of_feature, expected_of_centers = torch.autograd.grad(plain, inputs)
    torch.testing.assert_close(of_feature, 1e-3 * expected_of_feature)
    torch.testing.assert_close(of_centers, expected_of_centers)


def test_center_loss_of_weight_zero_is_not_built():
    cfg = config(MODEL__IF_WITH_CENTER="yes", SOLVER__STAGE2__CENTER_LOSS_WEIGHT=0.0)
    assert make_loss(cfg, 4, 6).center is None


def test_losses_under_autocast_are_computed_in_float32():
    scores, features, labels = batch()
    halves = [[t.detach().bfloat16() for t in group] for group in (scores, features)]
    loss = Criterion(id_type="circle", center=CenterLoss(4, 6), center_weight=1.0)
    expected = loss([t.float() for t in halves[0]], [t.float() for t in halves[1]], labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(halves[0], halves[1], labels)
    assert {term.dtype for term in found.values()} == {torch.float32} and len(found) == 3
    torch.testing.assert_close(found, expected)


def test_unknown_id_loss_is_an_error():
    with pytest.raises(ReIDError, match=r"ID_LOSS_TYPE = 'sphere'.*softmax, arcface"):
        Criterion(id_type="sphere")

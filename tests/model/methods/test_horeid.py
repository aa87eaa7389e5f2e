"""HOReID's heat maps and hand graph, and what an image without key points gives."""

import json
import math

import numpy as np
import pytest
import torch

import test_clipreid
import train_clipreid
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.methods.horeid import HOReID
from model.methods.horeid.method import draw_heatmaps
from model.methods.horeid.skeletons import SKELETONS
from tests.toy_hands import make_toy_hands
from utils.errors import ReIDError

SIZE = (64, 32)


def method(points=21, **options):
    torch.manual_seed(0)
    return HOReID(ResNet(SHAPES["resnet-tiny"], SIZE), 2, points=points, **options)


def batch(points, score=1.0):
    torch.manual_seed(1)
    where = torch.rand(4, points, 3) * torch.tensor([SIZE[1], SIZE[0], 1])
    where[..., 2] *= score
    return Batch(torch.randn(4, 3, *SIZE), torch.tensor([0, 0, 1, 1]), extra={"keypoints": where})


def test_heat_maps_are_gaussians_of_two_cells():
    points = torch.tensor([[[10.0, 30.0, 0.8], [3.0, 7.0, 0.0]]])
    found = draw_heatmaps(points, (16, 8), 4)
    assert found.shape == (1, 2, 16, 8)
    for row in range(16):
        for column in range(8):
            away = (10 / 4 - column - 0.5) ** 2 + (30 / 4 - row - 0.5) ** 2
            assert abs(float(found[0, 0, row, column]) - 0.8 * math.exp(-away / 8)) < 1e-6
    assert not found[0, 1].any(), "a point that was not found draws nothing"


def test_a_hand_is_one_graph_along_its_fingers():
    skeleton = SKELETONS[21]
    assert sorted(point for group in skeleton.groups for point in group) == list(range(21))
    assert all(i < j for i, j in skeleton.edges) and len(skeleton.edges) == 5 + 4 + 15
    seen, waiting = set(), [0]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [j if i == node else i for i, j in skeleton.edges if node in (i, j)]
    assert seen == set(range(21))


def test_an_image_without_key_points_is_compared_by_the_whole_alone():
    model = method().eval()
    with torch.no_grad():
        outputs = model(batch(21, score=0.0))
        found = model.embed(outputs).unflatten(1, (22, -1))
    assert outputs["confidence"].tolist() == [[0.0] * 21 + [1.0]] * 4
    assert not found[:, :-1].any() and found[:, -1].any()
    terms = method().losses(outputs, torch.tensor([0, 0, 1, 1]), Progress(2, 30, 1))[0]
    assert all(term.isfinite() for term in terms.values())


def test_the_matching_network_trains_by_itself_and_no_test_has_it():
    model, at = method(matching_epoch=3), Progress(2, 3, 1)
    outputs = model.train()(batch(21), at)
    terms = model.losses(outputs, torch.tensor([0, 0, 1, 1]), at)[0]
    (terms["permutation"] + terms["verification"]).backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"matching", "verifier"}
    assert "permutation" not in model.losses(outputs, torch.tensor([0, 0, 1, 1]), Progress(2, 2, 9))[0]
    without = method(matching=False)
    assert {name.split(".")[0] for name in model.state_dict().keys() - without.state_dict().keys()} == trained


def test_a_run_trains_and_tests_with_key_points_and_refuses_without(tmp_path):
    """From the files to the numbers, and the checkpoint tested again: the same numbers."""
    root = make_toy_hands(tmp_path / "hands")
    options = {"DATASETS.ROOT_DIR": root, "MODEL.NAME": "resnet-tiny", "MODEL.PRETRAIN_CHOICE": "random"}
    options |= {"INPUT.SIZE_TRAIN": "[32,32]", "INPUT.SIZE_TEST": "[32,32]", "SOLVER.STAGE2.MAX_EPOCHS": 2}
    options |= {"SOLVER.STAGE2.IMS_PER_BATCH": 8, "DATALOADER.NUM_INSTANCE": 2, "DATALOADER.NUM_WORKERS": 0}
    options |= {"MODEL.HOREID.MATCHING_EPOCH": 2, "MODEL.DEVICE": "cpu", "TEST.PICTURES": False}
    options |= {"OUTPUT_DIR": tmp_path / "run", "TEST.BOOTSTRAP": 0}
    words = [str(word) for pair in options.items() for word in pair]
    with pytest.raises(ReIDError, match=r"DATASETS.KEYPOINTS.*no such file"):
        train_clipreid.train("configs/hand/horeid.yml", words)
    draw = np.random.default_rng(0)
    rows = [",".join(["path", *(f"{axis}{i}" for i in range(21) for axis in "xy")])]
    for path in sorted(root.rglob("*.png")):
        rows.append(",".join([path.relative_to(root).as_posix(), *map(str, draw.uniform(0, 32, 42).round(1))]))
    (root / "keypoints.csv").write_text("\n".join(rows) + "\n")
    train_clipreid.train("configs/hand/horeid.yml", [*words, "RESUME", "never"])
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())["results"]
    weights = str(next((tmp_path / "run").glob("resnet-tiny_2.pth")))
    test_clipreid.test(
        "configs/hand/horeid.yml", [*words, "TEST.WEIGHT", weights, "OUTPUT_DIR", str(tmp_path / "test")]
    )
    tested = json.loads((tmp_path / "test" / "metrics.json").read_text())["results"]
    assert tested["test"]["mAP"] == pytest.approx(trained["trained"]["mAP"], abs=1e-6)

"""Settings that cannot work are refused before any data is read, and every recipe passes."""

from pathlib import Path

import pytest

from configs import load_config
from model.backbones.resnet import SHAPES, ResNet
from model.base import DataFacts
from model.methods.registry import METHODS, check_method
from utils.errors import ReIDError

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("abdnet", "cal", "cbdb_net", "gpa_net", "horeid", "laga_net", "mba_net", "mgn", "pat", "pcb", "rga_net", "san")
REFUSED = [
    ("osnet", {"DATALOADER.SAMPLER": "softmax_triplet"}, "SAMPLER = softmax_triplet.*osnet.*Set it to softmax"),
    ("osnet", {"MODEL.OSNET.FROZEN_EPOCHS": 150}, "FROZEN_EPOCHS = 150.*MAX_EPOCHS = 150.*stay frozen"),
    ("abdnet", {"INPUT.SIZE_TRAIN": [336, 128]}, "SIZE_TRAIN = .336, 128.*two halves.*such as 320 or 352"),
    ("autoreid", {"SOLVER.STAGE2.MICRO_BATCHES": 64}, "MICRO_BATCHES = 64.*two images in each.*to 32 or less"),
    ("autoreid", {"MODEL.NAME": "resnet50"}, "autoreid with MODEL.NAME = resnet50.*Auto-ReID's cells"),
    ("cal", {"DATALOADER.SAMPLER": "softmax"}, "DATALOADER.SAMPLER = softmax.*cal.*softmax_triplet"),
    ("cal", {"SOLVER.STAGE2.IMS_PER_BATCH": 4}, "IMS_PER_BATCH = 4.*one identity.*at least 8"),
    ("cbdb_net", {"MODEL.CBDB_NET.STRIPS": 25}, "STRIPS = 25.*24 rows.*one of 2 to 24"),
    ("cdnet", {"MODEL.NAME": "osnet_x1_0"}, "cdnet with MODEL.NAME = osnet_x1_0.*needs CDNet"),
    ("cdnet", {"SOLVER.STAGE2.IMS_PER_BATCH": 4}, "IMS_PER_BATCH = 4.*one identity.*at least 8"),
    ("gpa_net", {"MODEL.GPA_NET.PARTS": [1, 1]}, r"GPA_NET.PARTS = \[1, 1\].*at least two parts"),
    ("isp", {"INPUT.SIZE_TRAIN": [250, 128]}, "SIZE_TRAIN = .250, 128.*HRNet.*multiples of 32"),
    ("isp", {"INPUT.FIT_TEST": "crop"}, "FIT_TEST = crop.*Set it to stretch"),
    ("isp", {"MODEL.METRIC_LOSS_TYPE": "center"}, "METRIC_LOSS_TYPE = center.*triplet_center"),
    ("isp", {"TEST.METRIC": "visible", "TEST.FLIP": True}, "FLIP = True.*visible.*to False"),
    ("laga_net", {"MODEL.LAGA_NET.PARTS": 1}, "LAGA_NET.PARTS = 1.*24 rows.*one of 2 to 24.*mba_net"),
    ("laga_net", {"DATALOADER.SAMPLER": "softmax"}, "DATALOADER.SAMPLER = softmax.*laga_net.*softmax_triplet"),
    ("rga_net", {"SOLVER.STAGE2.IMS_PER_BATCH": 4}, "IMS_PER_BATCH = 4.*one identity.*at least 8"),
    ("horeid", {"TEST.FLIP": True}, "TEST.FLIP = True.*horeid.*Set it to False"),
    ("horeid", {"INPUT.EXIF": False}, "INPUT.EXIF = False.*upright picture. Set it to True"),
    ("horeid", {"INPUT.FIT_TEST": "crop"}, "INPUT.FIT_TEST = crop.*Set it to stretch"),
    ("horeid", {"MODEL.HOREID.POINTS": 18}, "POINTS = 18.*17 or 21"),
    ("horeid", {"DATALOADER.SAMPLER": "softmax"}, "DATALOADER.SAMPLER = softmax.*horeid"),
    ("san", {"DATALOADER.NUM_INSTANCE": 3, "SOLVER.STAGE2.IMS_PER_BATCH": 63}, "NUM_INSTANCE = 3.*Set it to 4"),
    ("san", {"INPUT.SIZE_TRAIN": [250, 128]}, "SIZE_TRAIN = .250, 128.*multiples of 16"),
    ("isp", {"INPUT.CUTOUT": 0.5}, "CUTOUT = 0.5.*one erased rectangle"),
    ("mba_net", {"MODEL.ID_LOSS_TYPE": "arcface"}, "MODEL.ID_LOSS_TYPE = arcface.*Set it to softmax"),
    ("mba_net", {"MODEL.IF_WITH_CENTER": "yes"}, "MODEL.IF_WITH_CENTER = yes"),
    ("mgn", {"INPUT.SIZE_TRAIN": [256, 128]}, "SIZE_TRAIN = .256, 128.*2 and into 3.*such as 192 or 288"),
    ("mgn", {"DATALOADER.SAMPLER": "triplet"}, "DATALOADER.SAMPLER = triplet.*softmax_triplet"),
    ("pat", {"MODEL.PAT.WIDTH": 100}, "WIDTH = 100.*HEADS = 8.*such as 96"),
    ("pat", {"MODEL.PAT.PARTS": 1}, "PARTS = 1.*2 or more"),
    ("pcb", {"INPUT.SIZE_TRAIN": [320, 128]}, "SIZE_TRAIN = .320, 128.*PARTS = 6.*multiple of 96, such as 288 or 384"),
    ("pcb", {"INPUT.SIZE_TRAIN": [64, 64], "MODEL.PCB.STRIPES": "overlap"}, "only 4 rows.*at least 96"),
    ("pcb", {"SOLVER.STAGES": [1, 2]}, "SOLVER.STAGES = .1, 2.*RPP = False.*to .2."),
    ("pcb", {"SOLVER.STAGES": [1], "MODEL.PCB.RPP": True}, "SOLVER.STAGES = .1.*untrained"),
    ("transreid", {"MODEL.TRANSREID.SHIFT": 0}, "SHIFT = 0.*cannot be shuffled.*SHIFT lies between 1 and 210"),
    ("transreid", {"MODEL.TRANSREID.PARTS": 211}, "PARTS = 211.*210 patches.*210 or less"),
    ("dcal", {"SOLVER.STAGE2.MICRO_BATCHES": 2}, "MICRO_BATCHES = 2.*dcal.*Set it to 1"),
    ("aaformer", {"MODEL.AAFORMER.PARTS": 0}, "AAFORMER.PARTS = 0.*set 1 to"),
    ("promptsg", {"MODEL.PROMPT": "A photo of a X X person"}, "MODEL.PROMPT = .*promptsg.*one X"),
    ("clip_reident", {"DATALOADER.SAMPLER": "softmax_triplet"}, "SAMPLER = softmax_triplet.*clip_reident.*to pairs"),
    ("cilp_fgdi", {"MODEL.CILP_FGDI.DOMAIN_EPOCHS": 150}, "DOMAIN_EPOCHS = 150.*MAX_EPOCHS = 150.*Set it lower"),
]


def changed(name, keys):
    cfg = load_config(ROOT / "configs" / "person" / f"{name}.yml")[0]
    for key, value in keys.items():
        *groups, leaf = key.split(".")
        node = cfg
        for group in groups:
            node = node[group]
        node[leaf] = value
    return cfg


@pytest.mark.parametrize(("name", "keys", "message"), REFUSED)
def test_refused(name, keys, message):
    with pytest.raises(ReIDError, match=message):
        check_method(changed(name, keys))


@pytest.mark.parametrize("path", [p for name in NAMES for p in sorted(ROOT.glob(f"configs/*/{name}*.yml"))], ids=str)
def test_recipes_pass(path):
    cfg = load_config(path)[0]
    assert check_method(cfg) is None


@pytest.mark.parametrize("name", NAMES)
def test_own_names_pass_unchanged(name):
    state = METHODS[name](ResNet(SHAPES["resnet-tiny"], (96, 96)), 3).state_dict()
    renamed = METHODS[name].rename(dict(state))
    assert list(renamed) == list(state)
    assert all(renamed[key] is state[key] for key in state)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_without_metadata_shows_its_identities(name):
    state = METHODS[name](ResNet(SHAPES["resnet-tiny"], (96, 96)), 7).state_dict()
    assert METHODS[name].facts_in(None, state, DataFacts(1, cameras=2), None) == DataFacts(7, cameras=2)


def test_san_without_textures_is_refused():
    with pytest.raises(ReIDError, match=r"TEXTURES is empty.*Name the folder.*baseline"):
        METHODS["san"].needs(changed("san", {"DATASETS.TEXTURES": ""}), training=True)
    assert not METHODS["san"].needs(changed("san", {"DATASETS.TEXTURES": ""}), training=False)

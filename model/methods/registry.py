"""The methods by ``MODEL.METHOD``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.backbones.registry import family_of
from model.base import Method
from model.methods.aaformer import AAFormer
from model.methods.abdnet import ABDNet
from model.methods.autoreid import AutoReID
from model.methods.baseline import ImageReID
from model.methods.cal import CAL
from model.methods.cbdb_net import CBDBNet
from model.methods.cdnet import CDNetReID
from model.methods.cilp_fgdi import CILPFGDI
from model.methods.clip_reident import CLIPReIdent
from model.methods.clipreid import CLIPReID
from model.methods.coop import CoOp
from model.methods.dcal import DCAL
from model.methods.gpa_net import GPANet
from model.methods.handid import HandID
from model.methods.horeid import HOReID
from model.methods.isp import ISP
from model.methods.laga_net import LAGANet
from model.methods.mba_net import MBANet
from model.methods.mgn import MGN
from model.methods.osnet import OSNetClassifier
from model.methods.pat import PAT
from model.methods.pcb import PCB
from model.methods.pcl import PCL
from model.methods.promptsg import PromptSG
from model.methods.rga_net import RGANet
from model.methods.san import SAN
from model.methods.tfmemory import TFMemory
from model.methods.transreid import TransReID
from model.methods.zeroshot import ZeroShot
from utils.errors import ReIDError, require_choice

if TYPE_CHECKING:
    from yacs.config import CfgNode

METHODS: dict[str, type[Method]] = {
    "clipreid": CLIPReID,
    "baseline": ImageReID,
    "zeroshot": ZeroShot,
    "coop": CoOp,
    "handid": HandID,
    "pcl": PCL,
    "tfmemory": TFMemory,
    "pcb": PCB,
    "cal": CAL,
    "mba_net": MBANet,
    "gpa_net": GPANet,
    "laga_net": LAGANet,
    "rga_net": RGANet,
    "mgn": MGN,
    "osnet": OSNetClassifier,
    "abdnet": ABDNet,
    "cbdb_net": CBDBNet,
    "cdnet": CDNetReID,
    "autoreid": AutoReID,
    "horeid": HOReID,
    "pat": PAT,
    "isp": ISP,
    "san": SAN,
    "transreid": TransReID,
    "dcal": DCAL,
    "aaformer": AAFormer,
    "promptsg": PromptSG,
    "clip_reident": CLIPReIdent,
    "cilp_fgdi": CILPFGDI,
}
"""From the name to the class; docs/methods.md describes them."""

FAMILIES = {
    "clip": "one of CLIP's networks, with its text encoder and both image features",
    "timm": "timm/<name>",
    "resnet": "a ResNet of model/backbones/resnet.py",
    "osnet": "an OSNet of model/backbones/osnet.py",
    "cdnet": "CDNet of model/backbones/cdnet.py",
    "autoreid": "a network of Auto-ReID's cells of model/backbones/autoreid.py",
    "hrnet": "an HRNet of model/backbones/hrnet.py",
    "vit": "a ViT of model/backbones/vit.py",
}
"""What a family of backbones is, for messages."""


def check_method(cfg: CfgNode) -> None:
    """Refuse a method, backbone, stages or losses that cannot work.

    Raises:
        ReIDError: naming the key, the value and a valid one.
    """
    name, stages = cfg.MODEL.METHOD, cfg.SOLVER.STAGES
    require_choice("MODEL.METHOD", name, METHODS)
    method = METHODS[name]
    own = [stage.number for stage in method.stages]
    if not set(stages) <= set(own) or bool(stages) != bool(own):
        raise ReIDError(
            f"SOLVER.STAGES = {stages}: the stages of MODEL.METHOD {name} are {own}. Set it to {own or '[]'}"
            f"{', or to some of them' if len(own) > 1 else ''}."
        )
    if method.backbones and family_of(cfg.MODEL.NAME) not in method.backbones:
        wanted = " or ".join(FAMILIES.get(family, family) for family in method.backbones)
        raise ReIDError(
            f"MODEL.METHOD = {name} with MODEL.NAME = {cfg.MODEL.NAME}: this method needs {wanted}. Choose another "
            "MODEL.NAME, or MODEL.METHOD baseline."
        )
    if cfg.MODEL.STAGE1_WEIGHT and 1 in stages:
        raise ReIDError(
            f"MODEL.STAGE1_WEIGHT = {cfg.MODEL.STAGE1_WEIGHT} with SOLVER.STAGES = {stages}: stage 1 would learn its "
            "prompts from the start. Leave it empty, or set SOLVER.STAGES to [2]."
        )
    if cfg.MODEL.TEXT_CONTROL != "none" and name != "clipreid":
        raise ReIDError(
            f"MODEL.TEXT_CONTROL = {cfg.MODEL.TEXT_CONTROL} with MODEL.METHOD {name}: it is a control of clipreid. Set "
            "it to none."
        )
    if cfg.MODEL.TRIPLET_NORM and not issubclass(method, ImageReID | PromptSG):
        raise ReIDError(
            f"MODEL.TRIPLET_NORM with MODEL.METHOD {name}, whose triplet loss is its own or none. Set it to False."
        )
    if cfg.TEST.FEATURE != "both" and not (issubclass(method, ImageReID) and family_of(cfg.MODEL.NAME) == "clip"):
        raise ReIDError(
            f"TEST.FEATURE = {cfg.TEST.FEATURE} with MODEL.METHOD {name} and MODEL.NAME {cfg.MODEL.NAME}: only CLIP's "
            "networks have an image and a projected feature to choose from. Set it to both."
        )
    if method.mixes_images:
        _check_whole_batches(cfg, name)
    method.check(cfg)


def _check_whole_batches(cfg: CfgNode, name: str) -> None:
    for stage in cfg.SOLVER.STAGES:
        micro_batches = cfg.SOLVER[f"STAGE{stage}"].MICRO_BATCHES
        if micro_batches > 1:
            raise ReIDError(
                f"SOLVER.STAGE{stage}.MICRO_BATCHES = {micro_batches} with MODEL.METHOD {name}: each image is compared "
                "with others of its batch inside the network, so a batch cannot be cut into micro-batches. Set it to 1."
            )

"""The small CLIP of ``python -m processor.hands_clip``, trained on drawn hands: where it lies, how it is written.

``RN-Small.json`` beside it is its card: recipe, data, seed, seconds and measured figures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.clip.model import make_image_encoder
from model.clip.seeded import SEEDED, start_values, without_start
from model.clip.shapes import ARCHITECTURES
from utils.errors import ReIDError
from utils.files.text_files import read_text
from utils.optional import import_optional

if TYPE_CHECKING:
    from yacs.config import CfgNode

COMMAND = "python -m processor.hands_clip --output output/hand/hands_clip"
NAME = "RN-Small"
FOLDER = Path(__file__).with_name("hands")
FILE, CARD = FOLDER / f"{NAME}.safetensors", FOLDER / f"{NAME}.json"
DRAWING_SEED = 4_000_000_000
"""DATASETS.SYNTHETIC.SEED of its hands."""
SIZE = (64, 64)
_WIDTH = 1024
_SEEDED = {
    "token_embedding.weight": 0.02,
    "visual.attnpool.q_proj.weight": _WIDTH**-0.5,
    "visual.attnpool.k_proj.weight": _WIDTH**-0.5,
}
"""Deviations of the tensors whose start comes from a seed: words that do not occur, and what the recipe locks."""


def start_tensors(seed: int) -> dict[str, Tensor]:
    """The random weights that its training starts from, under OpenAI's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = make_image_encoder(ARCHITECTURES[NAME], SIZE)
    tensors = {f"visual.{name}": tensor for name, tensor in encoder.state_dict().items()}
    tensors |= encoder.text.encoder.state_dict()
    tensors |= {"token_embedding.weight": encoder.text.embedding, "logit_scale": encoder.text.logit_scale}
    for name, deviation in _SEEDED.items():
        tensors[name] = start_values(name, tuple(tensors[name].shape), deviation, seed)
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def packed(tensors: Mapping[str, Tensor], seed: int) -> bytes:
    """A safetensors file in float16, without what is still as :func:`start_tensors` made it."""
    shapes = {name: [list(tensors[name].shape), deviation] for name, deviation in _SEEDED.items()}
    kept = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in without_start(tensors, _SEEDED, seed).items()
    }
    header = {SEEDED: json.dumps({"seed": seed, "tensors": shapes})}  # one entry: several have no fixed order
    return import_optional("safetensors.torch").save(kept, header)


def card() -> dict[str, Any]:
    """What is known of the file, ``sha256`` among it.

    Raises:
        ReIDError: there is no card.
    """
    if not CARD.is_file():
        raise ReIDError(
            f"MODEL.PRETRAIN_CHOICE = hands: {FILE} and its card are not there. Make them once with {COMMAND}, or "
            "start at random with MODEL.PRETRAIN_CHOICE random."
        )
    return json.loads(read_text(CARD))


def hands_weights(cfg: CfgNode) -> Path:
    """The file for ``MODEL.PRETRAIN_CHOICE`` hands.

    Raises:
        ReIDError: another network or other weights are named too, the data are the drawn hands that it was trained on,
            or the file is not the one of the card.
    """
    if cfg.MODEL.NAME != NAME or cfg.MODEL.PRETRAIN_PATH:
        raise ReIDError(
            f"MODEL.PRETRAIN_CHOICE = hands with MODEL.NAME = {cfg.MODEL.NAME} and MODEL.PRETRAIN_PATH = "
            f"{cfg.MODEL.PRETRAIN_PATH!r}: the small CLIP is a {NAME}. Set MODEL.NAME to {NAME} and leave "
            "PRETRAIN_PATH empty."
        )
    if cfg.DATASETS.NAMES == "synthetic_hand" and cfg.DATASETS.SYNTHETIC.SEED == DRAWING_SEED and cfg.SOLVER.STAGES:
        raise ReIDError(
            f"DATASETS.SYNTHETIC.SEED = {DRAWING_SEED} with MODEL.PRETRAIN_CHOICE = hands, which was trained on these "
            "hands. Choose another seed."
        )
    known = card()["sha256"]
    found = hashlib.sha256(FILE.read_bytes()).hexdigest() if FILE.is_file() else "no file"
    if found != known:
        raise ReIDError(
            f"{FILE}: expected the file of its card, SHA-256 {known}, found {found}. Restore it, or make both "
            f"again: {COMMAND}."
        )
    return FILE

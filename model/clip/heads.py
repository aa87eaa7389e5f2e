"""Number of attention heads of CLIP weights, from known designs or the configuration beside the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.clip.hub import CONFIGURATIONS
from model.clip.shapes import HEAD_WIDTH, PUBLISHED_WIDTHS, WIDER_HEADS
from utils.errors import ReIDError
from utils.files.text_files import read_text

HUGGING_FACE = {
    "vision": "vision_model.embeddings.class_embedding",
    "text": "text_model.final_layer_norm.weight",
}
"""A tensor of each tower of a ``CLIPModel`` whose length is the tower's width."""
OPENAI = {"vision": "visual.class_embedding", "text": "ln_final.weight"}
"""The same under OpenAI's names; open_clip may put ``text.`` before them."""
LARGEST = 1 << 20
"""Bytes of such a file that are read; published ones have a few thousand."""


def check_heads(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse weights whose attention has other heads than :mod:`model.clip.shapes` gives to their width.

    OpenAI and open_clip give every head 64 channels but for a few known widths. Hugging Face's networks have any
    number of heads, so for unpublished widths it must stand in the configuration beside the file.

    Args:
        tensors: of a file, under its own names.
        folder: where the file lies.

    Raises:
        ReIDError: the number of heads is another one, or cannot be known.
    """
    stated = _stated(folder)
    hugging_face = HUGGING_FACE["vision"] in tensors
    for tower, name in (HUGGING_FACE if hugging_face else OPENAI).items():
        tensor = next((tensors[n] for n in (name, f"text.{name}") if n in tensors), None)
        if tensor is None or tensor.dim() != 1:
            continue  # a ResNet, or refused for it later
        width = len(tensor)
        channels = WIDER_HEADS.get(width, HEAD_WIDTH) if tower == "vision" else HEAD_WIDTH
        heads = stated.get(tower) if stated.get(f"{tower} width") == width else None
        if heads is not None and heads * channels != width:
            raise ReIDError(
                f"the {tower} transformer has {heads} attention heads at width {width}, according to the "
                f"configuration beside it; networks of this width have heads of {channels} channels here. Its "
                "features would differ."
            )
        if heads is None and hugging_face and width not in PUBLISHED_WIDTHS:
            raise ReIDError(
                f"the {tower} transformer has width {width}; no tensor shows its number of attention heads. Put "
                "the model's config.json beside the file."
            )


def _stated(folder: Path) -> dict[str, int]:
    """Widths and heads of both towers, as far as a configuration in ``folder`` states them."""
    for name in CONFIGURATIONS:
        try:
            content = json.loads(read_text(folder / name, LARGEST)) if (folder / name).is_file() else None
        except (ReIDError, ValueError, RecursionError):
            continue  # another program's file; weights that need it are refused without it
        if isinstance(content, dict):
            return _from_open_clip(content) if "model_cfg" in content else _from_hugging_face(content)
    return {}


def _from_hugging_face(content: Mapping[str, Any]) -> dict[str, int]:
    stated = {}
    for tower in ("vision", "text"):
        part = content.get(f"{tower}_config")
        part = part if isinstance(part, dict) else {}
        stated |= {f"{tower} width": part.get("hidden_size"), tower: part.get("num_attention_heads")}
    return {key: value for key, value in stated.items() if isinstance(value, int)}


def _from_open_clip(content: Mapping[str, Any]) -> dict[str, int]:
    model = content["model_cfg"] if isinstance(content["model_cfg"], dict) else {}
    vision, text = (model.get(f"{tower}_cfg") for tower in ("vision", "text"))
    stated: dict[str, Any] = {}
    if isinstance(vision, dict) and isinstance(vision.get("width"), int):
        channels = vision.get("head_width", HEAD_WIDTH)
        heads = vision["width"] // channels if isinstance(channels, int) and channels > 0 else None
        stated |= {"vision width": vision["width"], "vision": heads}
    if isinstance(text, dict):
        stated |= {"text width": text.get("width"), "text": text.get("heads")}
    return {key: value for key, value in stated.items() if isinstance(value, int)}

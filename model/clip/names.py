"""Names of CLIP's tensors: other projects' names turned into OpenAI's, and other models' tensors refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from utils.errors import ReIDError

NOT_WEIGHTS = frozenset(
    {"input_resolution", "context_length", "vocab_size", "attn_mask"}
    | {"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"}
)
"""Constants that some files keep among the weights."""

_AFFINE = r"(weight|bias)"
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_BLOCK = rf"attn\.in_proj_{_AFFINE}|(attn\.out_proj|ln_[12]|mlp\.c_(fc|proj))\.{_AFFINE}"
_BLOCKS = rf"transformer\.resblocks\.\d+\.({_BLOCK})"
_TEXT = rf"token_embedding\.weight|positional_embedding|text_projection|logit_scale|ln_final\.{_AFFINE}|{_BLOCKS}"
_VIT = rf"class_embedding|positional_embedding|proj|conv1\.weight|ln_(pre|post)\.{_AFFINE}|{_BLOCKS}"
_RESNET = (
    rf"conv[123]\.weight|bn[123]\.{_NORM}|attnpool\.(positional_embedding|[qkvc]_proj\.{_AFFINE})"
    rf"|layer[1-4]\.\d+\.(conv[123]\.weight|bn[123]\.{_NORM}|downsample\.(0\.weight|1\.{_NORM}))"
)
_CLIP = re.compile(rf"{_TEXT}|visual\.({_VIT}|{_RESNET})")

_NEEDED = {
    "token_embedding.weight": 2,
    "positional_embedding": 2,
    "transformer.resblocks.0.attn.in_proj_weight": 2,
    "ln_final.weight": 1,
    "text_projection": 2,
    "visual.conv1.weight": 4,
}
"""Tensors that no CLIP lacks, with the number of their dimensions."""
_NEEDED_VIT = {
    "visual.class_embedding": 1,
    "visual.positional_embedding": 2,
    "visual.proj": 2,
    "visual.ln_pre.weight": 1,
}
_NEEDED_RESNET = {"visual.attnpool.positional_embedding": 2, "visual.layer1.0.conv1.weight": 4}


def to_openai_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's tensors under OpenAI's names, from OpenAI's, open_clip's or Hugging Face's.

    May empty ``tensors``.

    Raises:
        ReIDError: the tensors are another model's, or some that every CLIP has are missing.
    """
    if any(name.startswith("vision_model.") for name in tensors):
        tensors = _from_hugging_face(tensors)
    else:
        # open_clip's CustomTextCLIP keeps the text tower's tensors one level lower.
        tensors = {name.removeprefix("text."): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in NOT_WEIGHTS}
    _check_clip(tensors)
    return tensors


def _check_clip(tensors: Mapping[str, Tensor]) -> None:
    """Refuse other models: towers from timm, SigLIP, CoCa, an ImageNet ResNet, a tower alone."""
    design = "OpenAI's CLIP (a ViT with a class token or a ModifiedResNet, and a text transformer)"
    unknown = [name for name in tensors if not _CLIP.fullmatch(name)]
    if unknown:
        raise ReIDError(f"these are not the weights of {design}, which has no {some_of(unknown)}.")
    resnet = any(name.startswith(("visual.attnpool.", "visual.layer")) for name in tensors)
    needed = _NEEDED | (_NEEDED_RESNET if resnet else _NEEDED_VIT)
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ReIDError(f"these are not the weights of {design}: there is no {some_of(missing)}.")
    for name, dimensions in needed.items():
        if tensors[name].dim() != dimensions:
            raise ReIDError(f"{name} should have {dimensions} dimensions, not the shape {list(tensors[name].shape)}.")


def some_of(names: Iterable[str], limit: int = 3) -> str:
    """The first names of a list, and how many more there are, for messages."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


_HUGGING_FACE = {
    "logit_scale": "logit_scale",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # their spelling
    "vision_model.post_layernorm.": "visual.ln_post.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
}
_HUGGING_FACE_LAYER = {
    "self_attn.out_proj.": "attn.out_proj.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


def _from_hugging_face(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``CLIPModel``'s names -> OpenAI's; what has no counterpart keeps its name. Empties ``tensors``.

    OpenAI has one matrix for queries, keys and values, and its projections multiply from the right (x P).
    """
    renamed = {}
    for name in list(tensors):
        if name not in tensors:
            continue  # went into a fused matrix
        theirs = next((prefix for prefix in _HUGGING_FACE if name.startswith(prefix)), "")
        ours = _HUGGING_FACE.get(theirs, "") + name.removeprefix(theirs)
        for their_layer, our_layer in _HUGGING_FACE_LAYER.items():
            ours = ours.replace(their_layer, our_layer)
        if part := re.search(r"self_attn\.[qkv]_proj\.", name):
            ours = ours.replace(part[0], "attn.in_proj_")
            renamed[ours] = _fused(tensors, [name.replace(part[0], f"self_attn.{x}_proj.") for x in "qkv"])
        elif theirs.endswith("projection.weight"):
            tensor = tensors.pop(name)
            renamed[ours] = tensor.T.contiguous() if tensor.dim() == 2 else tensor
        else:
            renamed[ours] = tensors.pop(name)
    return renamed


def _fused(tensors: dict[str, Tensor], parts: list[str]) -> Tensor:
    missing = [name for name in parts if name not in tensors]
    if missing:
        raise ReIDError(f"the tensor {missing[0]} is missing.")
    shapes = [list(tensors[name].shape) for name in parts]
    if not shapes[0] or shapes != shapes[:1] * len(shapes):
        raise ReIDError(f"{some_of(parts)} should have one shape, not {some_of(map(str, shapes))}.")
    return torch.cat([tensors.pop(name) for name in parts])

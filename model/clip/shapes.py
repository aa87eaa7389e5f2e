"""Sizes of CLIP networks: by name for random starts, read from the weights otherwise."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.errors import ReIDError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

HEAD_WIDTH = 64
"""Channels of an attention head in OpenAI's networks, and in open_clip's but for the next ones."""
WIDER_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
"""Channels of a head by the width of the image transformer: open_clip's ViT-H, ViT-g, ViT-bigG and ViT-e."""
PUBLISHED_WIDTHS = frozenset({512, 768, 1024, *WIDER_HEADS})
"""Widths of transformers, image and text, of which all published CLIPs have the same heads."""
VOCABULARY = 49408
"""Rows of CLIP's token embedding table."""


COUNTING = {
    "classifier.weight": 2,
    "cv_embed": 2,
    "prompt_learner.cls_ctx": 2,
    "prompt_learner.token_prefix": 3,
    "prompt_learner.token_suffix": 3,
}
"""Tensors of a checkpoint whose rows number identities, cameras or tokens, and the fewest dimensions they may have."""


@dataclass(frozen=True)
class ViTShape:
    """A vision transformer: channels, blocks, patch side in pixels, inner channels of an MLP (None: 4 times width)."""

    width: int
    layers: int
    patch: int
    inner: int | None = None

    @property
    def head_width(self) -> int:
        """Channels of an attention head. No tensor shows them; they follow from the width."""
        return WIDER_HEADS.get(self.width, HEAD_WIDTH)

    @property
    def heads(self) -> int:
        """Attention heads of a block."""
        return self.width // self.head_width


@dataclass(frozen=True)
class ResNetShape:
    """A ModifiedResNet: channels of the stem, blocks in each of the four stages."""

    width: int
    layers: tuple[int, int, int, int]


@dataclass(frozen=True)
class TextShape:
    """The text transformer: channels, blocks, tokens it can read, size of the vocabulary."""

    width: int
    layers: int
    context: int = 77
    vocabulary: int = VOCABULARY

    @property
    def heads(self) -> int:
        """Attention heads of a block, of 64 channels each in all published text encoders."""
        return self.width // HEAD_WIDTH


@dataclass(frozen=True)
class CLIPShape:
    """Both towers and the width of the space they share; ``text`` is None where only images matter."""

    image: ViTShape | ResNetShape
    text: TextShape | None
    embed_dim: int


ARCHITECTURES: dict[str, CLIPShape] = {
    "RN50": CLIPShape(ResNetShape(64, (3, 4, 6, 3)), TextShape(512, 12), 1024),
    "RN101": CLIPShape(ResNetShape(64, (3, 4, 23, 3)), TextShape(512, 12), 512),
    "RN50x4": CLIPShape(ResNetShape(80, (4, 6, 10, 6)), TextShape(640, 12), 640),
    "ViT-B-32": CLIPShape(ViTShape(768, 12, 32), TextShape(512, 12), 512),
    "ViT-B-16": CLIPShape(ViTShape(768, 12, 16), TextShape(512, 12), 512),
    "ViT-L-14": CLIPShape(ViTShape(1024, 24, 14), TextShape(768, 12), 768),
    "ViT-L-14-336": CLIPShape(ViTShape(1024, 24, 14), TextShape(768, 12), 768),
    # open_clip's; MODEL.PRETRAIN_PATH names their weights.
    "ViT-H-14": CLIPShape(ViTShape(1280, 32, 14), TextShape(1024, 24), 1024),
    "ViT-g-14": CLIPShape(ViTShape(1408, 40, 14, 6144), TextShape(1024, 24), 1024),
    "ViT-bigG-14": CLIPShape(ViTShape(1664, 48, 14, 8192), TextShape(1280, 32), 1280),
    # Ours, for tests and from-scratch runs on a CPU; no pre-trained weights exist for them.
    "ViT-Tiny-16": CLIPShape(ViTShape(64, 3, 16), TextShape(64, 2), 32),
    "ViT-Small-8": CLIPShape(ViTShape(192, 6, 8), TextShape(128, 3), 128),
    "RN-Tiny": CLIPShape(ResNetShape(8, (1, 1, 1, 1)), TextShape(64, 2), 32),
    "RN-Small": CLIPShape(ResNetShape(32, (2, 2, 2, 2)), TextShape(128, 3), 256),
}
"""Sizes by ``MODEL.NAME``."""


def named_shape(name: str, others: Iterable[str] = ()) -> CLIPShape:
    """Sizes of the architecture ``name``; ``ViT-B/16`` and ``ViT-B-16`` are the same.

    Args:
        name: ``MODEL.NAME``.
        others: names of networks that are not CLIP's, for the message.

    Raises:
        ReIDError: there is no such architecture.
    """
    shape = ARCHITECTURES.get(name.replace("/", "-").replace("@", "-").removesuffix("px"))
    if shape is None:
        known = ", ".join((*ARCHITECTURES, *others))
        raise ReIDError(
            f"MODEL.NAME = {name!r}: choose one of {known}, or timm/<a backbone of timm>.{_hint(name, others)}"
        )
    return shape


def _hint(name: str, others: Iterable[str]) -> str:
    """What an unknown name may mean: a repository of weights, timm's name for a network, a slip of the pen."""
    owner, slash, repository = name.rpartition("/")
    network = _plain(repository)
    meant = next((known for known in ARCHITECTURES if _plain(known) in network), "")
    if slash and owner != "timm":
        return (
            f" A repository of weights goes into MODEL.PRETRAIN_PATH hf://{name}; MODEL.NAME is its architecture"
            f"{f', {meant}' if meant else ''}."
        )
    if re.fullmatch(r"resnet(50|101)", name, re.IGNORECASE):
        return f" CLIP's ResNet is RN{name[6:]}; ImageNet's is timm/{name.lower()}."
    names = (*ARCHITECTURES, *others)
    near = difflib.get_close_matches(name.upper(), [known.upper() for known in names], n=1, cutoff=0.6)
    meant = meant or next((known for known in names if [known.upper()] == near), "")
    return f" Did you mean {meant}?" if meant else ""


def _plain(name: str) -> str:
    """A name of a network without what its writers spell in different ways: vit_base_patch16, ViT-B/16, vit-b-16."""
    name = re.sub(r"resnet", "rn", re.sub(r"patch|clip", "", name.lower()))
    for letter, word in (("b", "base"), ("l", "large"), ("h", "huge")):
        name = name.replace(word, letter)
    return re.sub(r"[^a-z0-9]", "", name)


def names_of(image: ViTShape | ResNetShape) -> list[str]:
    """The architectures of :data:`ARCHITECTURES` whose image tower has these sizes."""
    return [name for name, shape in ARCHITECTURES.items() if shape.image == image]


def shape_of_weights(weights: Mapping[str, Tensor]) -> CLIPShape:
    """Sizes read from tensors under OpenAI's names (``visual.*``, ``transformer.*``).

    Raises:
        ReIDError: a tensor is missing that every CLIP has, or the vocabulary is another one than CLIP's.
    """
    rows = len(weights.get("token_embedding.weight", range(VOCABULARY)))
    if rows != VOCABULARY:
        raise ReIDError(
            f"token_embedding.weight has {rows} rows, those of another tokenizer; CLIP's has {VOCABULARY} tokens, and "
            "sentences would be read as other words. Take weights with CLIP's own tokenizer."
        )
    try:
        return _possible(CLIPShape(_image_shape(weights), _text_shape(weights), weights["text_projection"].shape[1]))
    except (KeyError, IndexError) as error:
        raise ReIDError(f"These are not CLIP weights: the tensor {error} is missing.") from None
    except (TypeError, ValueError) as error:
        raise ReIDError(f"These are not CLIP weights: a tensor has another number of dimensions ({error}).") from None


def shape_of_checkpoint(state: Mapping[str, Tensor]) -> CLIPShape:
    """Sizes in a CLIP-ReID checkpoint (``image_encoder.*``, and ``text_encoder.*`` if it has one).

    Raises:
        ReIDError: a tensor is missing that every image tower has, or one that counts something has no rows.
    """
    for name, least in COUNTING.items():
        if name in state and (state[name].dim() < least or 0 in state[name].shape):
            raise ReIDError(f"This is not a CLIP-ReID checkpoint: {name} has the shape {list(state[name].shape)}.")
    image = {
        f"visual.{n.removeprefix('image_encoder.')}": t for n, t in state.items() if n.startswith("image_encoder.")
    }
    try:
        vit = "visual.proj" in image
        embed_dim = image["visual.proj"].shape[1] if vit else len(image["visual.attnpool.c_proj.weight"])
        text = {n.removeprefix("text_encoder."): t for n, t in state.items() if n.startswith("text_encoder.")}
        return _possible(CLIPShape(_image_shape(image), _text_shape(text) if text else None, embed_dim))
    except (KeyError, IndexError) as error:
        raise ReIDError(f"This is not a CLIP-ReID checkpoint: the tensor {error} is missing.") from None
    except (TypeError, ValueError) as error:
        raise ReIDError(f"This is not a CLIP-ReID checkpoint: a tensor has other dimensions ({error}).") from None


def _possible(shape: CLIPShape) -> CLIPShape:
    """``shape`` itself; ValueError if no network can have it: nothing in it is empty, and heads share the channels."""
    vit = isinstance(shape.image, ViTShape)
    sizes = [shape.embed_dim, shape.image.width, *((shape.image.patch,) if vit else ())]
    towers = [(shape.image.width, shape.image.head_width)] if vit else [(32 * shape.image.width, HEAD_WIDTH)]
    if shape.text is not None:
        sizes += [shape.text.width, shape.text.context, shape.text.vocabulary]
        towers.append((shape.text.width, HEAD_WIDTH))
    if min(sizes) < 1 or any(width % head for width, head in towers):
        raise ValueError(f"sizes {shape}")
    return shape


def _image_shape(weights: Mapping[str, Tensor]) -> ViTShape | ResNetShape:
    if "visual.proj" in weights:
        width, _, patch, _ = weights["visual.conv1.weight"].shape
        inner = len(weights["visual.transformer.resblocks.0.mlp.c_fc.weight"])
        layers = _count(weights, "visual.transformer.resblocks.")
        return ViTShape(width, layers, patch, None if inner == 4 * width else inner)
    stages = [_count(weights, f"visual.layer{i}.") for i in (1, 2, 3, 4)]
    return ResNetShape(weights["visual.layer1.0.conv1.weight"].shape[0], (stages[0], stages[1], stages[2], stages[3]))


def _text_shape(weights: Mapping[str, Tensor]) -> TextShape:
    vocabulary = weights["token_embedding.weight"].shape[0] if "token_embedding.weight" in weights else VOCABULARY
    context, width = weights["positional_embedding"].shape
    return TextShape(width, _count(weights, "transformer.resblocks."), context, vocabulary)


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules there are under ``prefix``."""
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})

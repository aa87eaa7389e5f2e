"""The interface of an image encoder to the methods on it, and the report of a file that it loads.

Letters in shapes: B images, D channels, L tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from utils.errors import ReIDError

Outputs = dict[str, Tensor]
"""What a network or a method makes of a batch: named tensors [B, ...], a row for each image."""


@dataclass
class LoadReport:
    """The outcome for each tensor of a file. ``resized`` and ``skipped`` hold the shapes or the reason."""

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """A few lines for the log; tensors of one part with the same outcome share a line."""
        fates = {
            "loaded": dict.fromkeys(self.loaded, ""),
            "resized": self.resized,
            "skipped": self.skipped,
            "missing": self.missing,
        }
        return "\n".join(f"{fate:<8} {line}" for fate, tensors in fates.items() for line in _lines(tensors))


def _lines(tensors: Mapping[str, str]) -> list[str]:
    """One line for each part and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in tensors.items():
        groups.setdefault((name.partition(".")[0], reason), []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{part}.* ({len(names)} tensors)") + (reason and f": {reason}")
        for (part, reason), names in groups.items()
    ]


@dataclass
class TextTower:
    """CLIP's text side. No module: a method that reads text registers ``encoder`` itself.

    Attributes:
        encoder: from embedded tokens to features, see :class:`model.clip.model.TextEncoder`.
        embedding: token embedding table [vocabulary, D].
        logit_scale: logarithm of the factor on cosines, as pre-trained.
        reads_words: whether ``embedding`` belongs to ``encoder``; a checkpoint of re-identification has no such table.
    """

    encoder: nn.Module
    embedding: Tensor
    logit_scale: Tensor
    reads_words: bool = True

    @property
    def context(self) -> int:
        """Tokens that the encoder reads."""
        return len(self.encoder.positional_embedding)


class Backbone(nn.Module):
    """An image encoder by ``MODEL.NAME``, pre-trained when a method receives it.

    Its children bear the names of its pre-training (OpenAI, torchvision, timm). A method that works between stages
    calls or copies these children itself.

    Attributes:
        family: ``clip``, ``timm``, ``resnet``, ``vit`` ...; :attr:`Method.backbones` names those a method takes.
        dims: channels of each output of :meth:`forward`.
        grid: rows and columns of the last map, or of the patches.
        positions: name of the table of position embeddings [1 + h w, D], resized to other grids; empty for none.
        text: CLIP's text tower, None for others.
        saliency_kind: what :meth:`saliency` shows, for captions.
    """

    family: ClassVar[str]
    dims: dict[str, int]
    grid: tuple[int, int]
    positions: str = ""
    text: TextTower | None = None
    saliency_kind: str = ""

    @abstractmethod
    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] -> maps [B, D, h, w], tokens [B, L, D] and vectors [B, D] by name.

        ``side`` [B, D] is the side information of a ViT.
        """

    def layers_up_to(self, last: str) -> tuple[str, ...]:
        """Prefixes, within this network, of the parameters in layer ``last`` and in all that images pass before it.

        Layers stand in the order of their registration; embeddings, which are no layers, come before all of them.

        Args:
            last: a layer or a block of one: ``layer2``, ``transformer.resblocks.5``, of timm's ``network.blocks.5``.

        Raises:
            ReIDError: there is no such layer.
        """
        within: nn.Module = self
        front, path = [], ""
        for part in last.split("."):
            own = [name for name, _ in within.named_parameters(recurse=False)]
            front += [f"{path}{name}" for name in own if "embed" in name or name.endswith("_token")]
            names = [name for name, _ in within.named_children()]
            if part not in names:
                raise ReIDError(
                    f"SOLVER.STAGE2.FREEZE = {last!r}: the image encoder has no such layer. Choose one of "
                    f"{', '.join(f'{path}{name}' for name in names) or path.rstrip('.')}."
                )
            front += [f"{path}{name}." for name in names[: names.index(part)]]
            within, path = within.get_submodule(part), f"{path}{part}."
        return (*front, path)

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Copy a pre-training into this network: every tensor must fit; position tables are resized and the
        pre-training's classifier is left out.

        Raises:
            ReIDError: a tensor is missing, has another shape or no place.
        """

    @abstractmethod
    def saliency(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Where the network looks, [B, h, w] in [0, 1], for pictures."""

"""Any backbone of timm as an image encoder: one pooled feature, ImageNet's, DINO's or other pre-training.

timm is imported where it is needed: it takes seconds, and CLIP's own networks do without it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from model.backbones.base import Backbone, LoadReport, Outputs
from model.backbones.saliency import CONTRIBUTIONS, NORM, ROLLOUT, contributions, scaled
from model.layers.rollout import rollout
from model.loading import copy_all
from utils.errors import ReIDError

PREFIX = "timm/"
"""How ``MODEL.NAME`` begins for a backbone of timm; its own name follows."""


class TimmEncoder(Backbone):
    """timm's network without its classifier, with random weights.

    Args:
        name: timm's, such as ``resnet50`` or ``vit_small_patch16_224.dino``.
        image_size: height and width in pixels; handed to networks that are built for one size.

    Attributes:
        network: timm's own module, so a checkpoint's ``image_encoder.network.*`` are timm's names.
        dims: channels of ``feature``, the only output.
        grid: rows and columns of the last feature map.
        tokens: whether the network ends in tokens and not in a map.

    Raises:
        ReIDError: there is no such backbone, or it takes no images of this size.
    """

    family = "timm"

    def __init__(self, name: str, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.network = _create(name, image_size)
        try:
            feature, last, self.tokens = self._probe(image_size)
        except Exception as error:  # networks refuse an input each with an error of its own
            raise ReIDError(
                f"MODEL.NAME = {PREFIX}{name} does not accept images of INPUT.SIZE_TRAIN = {list(image_size)}: {error}"
            ) from None
        self.dims = {"feature": feature.shape[1]}
        self.grid: tuple[int, int] = (last.shape[2], last.shape[3])

    def forward(self, images: Tensor, side: Tensor | None = None) -> Outputs:
        """Images [B, 3, H, W] -> pooled feature [B, D]; there is no place to which ``side`` could be added."""
        return {"feature": self.network(images)}

    @property
    def saliency_kind(self) -> str:
        """What :meth:`saliency` shows: networks of tokens without plain attention have neither map."""
        if self._blocks():
            return ROLLOUT
        return NORM if self.tokens else CONTRIBUTIONS

    def saliency(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Attention rollout of a ViT, contributions to the feature of a network with maps, each image's from 0 to 1."""
        with torch.no_grad():
            if self._blocks():
                return scaled(self._rollout(images))
            if self.tokens:
                return scaled(self._last(images, tokens=True).float().norm(dim=1))
            maps = self.network.forward_features(images)
        return scaled(contributions(maps, self.network.forward_head, 3 if self._channels_last else 1))

    @property
    def _channels_last(self) -> bool:
        return getattr(self.network, "output_fmt", "NCHW") == "NHWC"

    def _last(self, images: Tensor, tokens: bool) -> Tensor:
        """The last map [B, D, h, w], or a ViT's patch tokens behind the last block and in front of the last norm."""
        if tokens:
            (last,) = self.network.forward_intermediates(images, indices=1, norm=False, intermediates_only=True)
            return last
        last = self.network.forward_features(images)
        return last.movedim(-1, 1) if self._channels_last else last

    def _blocks(self) -> list[nn.Module]:
        """The attention of each block, if this is timm's plain ViT; empty for others."""
        from timm.models.vision_transformer import Attention, VisionTransformer

        if type(self.network) is not VisionTransformer:
            return []
        found = [block.attn for block in self.network.blocks]
        return found if all(type(attention) is Attention for attention in found) else []

    def _rollout(self, images: Tensor) -> Tensor:
        """Attention of what is pooled (class token, or mean of the patches) to each patch [B, h, w]."""
        weights: list[Tensor] = []

        def keep(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            joined = attention.qkv(inputs[0]).unflatten(-1, (3, attention.num_heads, -1))
            query, key, _ = joined.permute(2, 0, 3, 1, 4).float()
            query, key = attention.q_norm(query), attention.k_norm(key)
            weights.append((query @ key.transpose(-1, -2) * attention.scale).softmax(-1))

        hooks = [attention.register_forward_pre_hook(keep) for attention in self._blocks()]
        try:
            self.network.forward_features(images)
        finally:
            for hook in hooks:
                hook.remove()
        rolled, first = rollout(weights), self.network.num_prefix_tokens
        read = rolled[:, 0] if self.network.global_pool == "token" else rolled[:, first:].mean(1)
        return read[:, first:].unflatten(1, self.grid)

    @torch.no_grad()
    def _probe(self, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, bool]:
        """Feature and last map of an empty image, and whether the network ends in tokens."""
        image = torch.zeros(1, 3, *image_size)
        self.network.eval()
        tokens = self.network.forward_features(image).dim() == 3
        found = self.network(image), self._last(image, tokens), tokens
        self.network.train()
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Copy tensors under timm's names, see :meth:`Backbone.load`.

        Older names and position embeddings of another image size are converted as timm itself does.
        """
        kind = self.network.pretrained_cfg.get("classifier") or ()
        classifiers = tuple(f"{part}." for part in ((kind,) if isinstance(kind, str) else kind))
        skipped = {name: "the classifier of its pre-training" for name in tensors if name.startswith(classifiers)}
        kept = {name: tensor for name, tensor in tensors.items() if name not in skipped}
        convert = getattr(sys.modules[type(self.network).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            kept = convert(kept, self.network)
        copy_all(self.network, kept, "")
        return LoadReport(list(kept), skipped=skipped)


def backbone_name(name: str) -> str | None:
    """timm's name in ``MODEL.NAME``; None for CLIP's networks.

    Raises:
        ReIDError: timm has no such backbone.
    """
    if not name.startswith(PREFIX):
        return None
    import timm

    name = name.removeprefix(PREFIX)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=3, cutoff=0.6)
        hint = f" Near it: {', '.join(near)}." if near else " timm.list_models() lists them."
        raise ReIDError(f"MODEL.NAME = '{PREFIX}{name}': timm {timm.__version__} has no such backbone.{hint}")
    return name


def hub_weights(name: str) -> dict[str, Tensor]:
    """Pre-trained weights of a backbone from the hub, or from where timm has put them before.

    Raises:
        ReIDError: the download failed; which file to fetch, and where to put it.
    """
    import timm

    source = timm.models.get_pretrained_cfg(name)
    hub = source.hf_hub_id if source is not None else None
    try:
        if hub:
            _reach_hub(hub)
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # of the hub's, the network's and timm's own classes
        place = f"https://huggingface.co/{hub}/resolve/main/model.safetensors" if hub else "a page of your own"
        raise ReIDError(
            f"the pre-trained weights of MODEL.NAME = {PREFIX}{name} could not be downloaded: "
            f"{str(error)[:200] or type(error).__name__}.\n  from: {place}\nDownload the file on a machine that can, "
            "put it anywhere and name it in MODEL.PRETRAIN_PATH; or start at random with MODEL.PRETRAIN_CHOICE random."
        ) from None


def _reach_hub(repository: str) -> None:
    """Request weights that are not in the cache once; without a network timm tries a dozen times, for a minute.

    Raises:
        Exception: the hub cannot be reached, in a class of its own or of the network's.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import EntryNotFoundError

    files = ("model.safetensors", "pytorch_model.bin")
    if not any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        with suppress(EntryNotFoundError):  # the other one may be there
            get_hf_file_metadata(hf_hub_url(repository, files[0]))


def _create(name: str, image_size: tuple[int, int]) -> nn.Module:
    import timm

    known = timm.models.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": image_size} if known is not None and known.fixed_input_size else {}
    try:
        return timm.create_model(name, num_classes=0, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise ReIDError(
            f"MODEL.NAME = {PREFIX}{name} cannot be built for INPUT.SIZE_TRAIN = {list(image_size)}: {error}"
        ) from None

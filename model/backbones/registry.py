"""The image encoders that a re-identification model may have."""

from __future__ import annotations

from model.backbones.timm_backbone import TimmEncoder, TimmShape
from model.clip.model import ModifiedResNet, VisionTransformer, make_image_encoder
from model.clip.shapes import CLIPShape


def make_encoder(
    shape: CLIPShape | TimmShape, image_size: tuple[int, int], stride: tuple[int, int] | None = None
) -> VisionTransformer | ModifiedResNet | TimmEncoder:
    """CLIP's image tower or a backbone of timm, for images of one size; ``stride`` is of a CLIP ViT's patches."""
    if isinstance(shape, TimmShape):
        return TimmEncoder(shape.name, image_size)
    return make_image_encoder(shape, image_size, stride)

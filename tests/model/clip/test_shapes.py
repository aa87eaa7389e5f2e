"""Every named architecture has the number of parameters that OpenAI's CLIP has."""

import pytest
import torch

from model.clip.model import TextEncoder, make_image_encoder
from model.clip.shapes import ARCHITECTURES, named_shape, shape_of_weights

PUBLISHED = {
    "RN50": (224, 102_007_137),
    "RN101": (224, 119_688_033),
    "RN50x4": (288, 178_300_601),
    "ViT-B-32": (224, 151_277_313),
    "ViT-B-16": (224, 149_620_737),
    "ViT-L-14": (224, 427_616_513),
    "ViT-L-14-336": (336, 427_944_193),
}
"""Native image side, and parameters of both towers, the token embedding and the logit scale."""


def towers(name, side):
    with torch.device("meta"):
        shape = named_shape(name)
        image = make_image_encoder(shape, (side, side))
        return shape, image, TextEncoder(shape.text, shape.embed_dim)


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_parameters(name):
    side, published = PUBLISHED[name]
    # OpenAI's last ResNet stage halves the map once more; half the side gives attention pooling as many positions.
    side = side // 2 if name.startswith("RN") else side
    shape, image, text = towers(name, side)
    table = shape.text.vocabulary * shape.text.width
    assert sum(p.numel() for m in (image, text) for p in m.parameters()) + table + 1 == published


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_are_read_back_from_the_weights(name):
    shape, image, text = towers(name, 224)
    weights = {f"visual.{k}": v for k, v in image.state_dict().items()} | text.state_dict()
    assert shape_of_weights(weights) == shape


@pytest.mark.parametrize("name", ["ViT-Tiny-16", "ViT-Small-8", "RN-Tiny", "RN-Small"])
@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
def test_small_ones_run_on_rectangles(name, size):
    shape = ARCHITECTURES[name]
    image = make_image_encoder(shape, size).eval()
    with torch.no_grad():
        features = image(torch.randn(2, 3, *size))
    assert {name: tuple(f.shape) for name, f in features.items()} == {n: (2, d) for n, d in image.dims.items()}

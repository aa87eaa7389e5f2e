"""Textures of training images, which SAN learns to predict: one file each, in a folder parallel to the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_to_tensor, resize

from datasets.bases import ReIDDataset, require_folder, some
from utils.errors import ReIDError
from utils.images import read_image

if TYPE_CHECKING:
    from yacs.config import CfgNode

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class TextureReader:
    """The texture of an image, whatever its augmentation, as published.

    Attributes:
        files: by the path of the image.
        size: height and width of the decoder's output in pixels.
    """

    files: dict[str, str]
    size: tuple[int, int]

    def __call__(self, path: str, steps: Sequence[object], size: tuple[int, int]) -> Tensor:
        """[3, H, W] in [-1, 1], brought to :attr:`size`."""
        picture = resize(read_image(self.files[path]), list(self.size), InterpolationMode.BILINEAR)
        return pil_to_tensor(picture).float() / 127.5 - 1


def texture_reader(cfg: CfgNode, dataset: ReIDDataset) -> TextureReader:
    """Find the texture of each training image: the file of ``DATASETS.TEXTURES`` at the path that the image has below
    ``DATASETS.ROOT_DIR``, with any of :data:`ENDINGS`.

    Raises:
        ReIDError: there is no such folder, or it lacks a file.
    """
    folder = require_folder(Path(cfg.DATASETS.TEXTURES), "DATASETS.TEXTURES names the folder of SAN's textures.")
    root = Path(cfg.DATASETS.ROOT_DIR).resolve()
    files, missing = {}, []
    for path in dict.fromkeys(record.path for record in dataset.train):
        found = _texture(folder, root, Path(path).resolve())
        if found is None:
            missing.append(path)
        else:
            files[path] = str(found)
    if missing:
        raise ReIDError(
            f"DATASETS.TEXTURES = {cfg.DATASETS.TEXTURES} lacks {len(missing)} of {len(missing) + len(files)} training "
            f"images: {some(missing, 3)}. Expected a picture at the image's path below DATASETS.ROOT_DIR, with one of "
            f"the endings {', '.join(ENDINGS)}."
        )
    height, width = cfg.INPUT.SIZE_TRAIN
    return TextureReader(files, (height, 2 * width if cfg.MODEL.SAN.DOUBLE_WIDTH else width))


def _texture(folder: Path, root: Path, path: Path) -> Path | None:
    if not path.is_relative_to(root):
        return None
    place = folder / path.relative_to(root)
    return next((file for ending in ENDINGS if (file := place.with_suffix(ending)).is_file()), None)

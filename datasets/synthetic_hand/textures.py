"""Write a texture of each drawn training image, for the method san: the skin of its hand, back and palm side by side.

The colours of the skin lie on a hand of average shape, flat and without light, so that each place of the skin has its
pixel, whoever's it is and whatever the pose. All images of a hand have one texture. DATASETS.TEXTURES receives a
picture at the path that each image has below DATASETS.ROOT_DIR.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from configs import load_config
from datasets import make_dataset
from datasets.synthetic_hand.dataset import identity_hand
from datasets.synthetic_hand.drawing import draw_texture
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_console
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

EXAMPLES = ("python -m datasets.synthetic_hand.textures --config_file configs/hand/compare/cnn/san.yml",)


def write_textures(cfg: CfgNode) -> int:
    """Write what DATASETS.TEXTURES lacks; the number of files.

    Raises:
        ReIDError: the data set is not the drawn one, or no folder is named.
    """
    keys = cfg.DATASETS
    if keys.NAMES != "synthetic_hand" or not keys.TEXTURES:
        raise ReIDError(
            f"DATASETS.NAMES = {keys.NAMES} with DATASETS.TEXTURES = {keys.TEXTURES!r}: textures can be drawn of "
            "drawn hands alone. Set DATASETS.NAMES to synthetic_hand and name a folder for the textures."
        )
    root, written = Path(keys.ROOT_DIR).resolve(), 0
    for record in make_dataset(cfg).train:
        path = Path(record.path).resolve()
        texture = Path(keys.TEXTURES) / path.relative_to(root)
        if not texture.is_file():
            pixels = draw_texture(identity_hand(keys.SYNTHETIC.SEED, int(path.parent.name)), keys.SYNTHETIC.SIZE)
            texture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(texture)
            written += 1
    LOGGER.info("%d textures written below %s", written, keys.TEXTURES)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m datasets.synthetic_hand.textures", __doc__, EXAMPLES)
    parser.add_argument("--config_file", metavar="FILE", required=True, help="YAML file of the training")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="pairs that override the file")
    arguments = parser.parse_intermixed_args(argv)
    return run_script(partial(_write, arguments.config_file, arguments.opts))


def _write(file: str, opts: Sequence[str]) -> None:
    setup_console()
    write_textures(load_config(file, opts)[0])


if __name__ == "__main__":
    sys.exit(main())

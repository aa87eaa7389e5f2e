"""Write a trained image encoder for other programs: safetensors for open_clip and timm, ONNX for everything else.

safetensors: the tensors of the image encoder alone, under OpenAI's names (``visual.*``), or those of a backbone of timm
under its own. timm and open_clip read them; the log names what their networks cannot hold (overlapping patches, side
information, the ResNets' last stage of stride 1). ONNX: the whole test feature as the evaluation compares it, so it
follows ``TEST.FEATURE``, ``TEST.NECK_FEAT``, ``TEST.FLIP`` and ``TEST.FEAT_NORM`` and takes camera and view labels if
the model has side information. Both keep in their header how images are prepared. ``--half`` stores weights as float16
and logs how far features move.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import load_config
from model.backbones.timm_backbone import TimmEncoder
from model.base import Batch, DataFacts, Method
from model.clip.model import ModifiedResNet, VisionTransformer
from model.make_model_clipreid import check_weights, make_test_model
from model.onnx_file import write_onnx
from utils.compute.precision import widened
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_console
from utils.errors import ReIDError
from utils.files.checkpoint import write_atomically
from utils.optional import MissingPackageError, import_optional
from utils.retrieval.coordinates import check_metric

if TYPE_CHECKING:
    from yacs.config import CfgNode

_TRAINED = "python -m model.export --config_file configs/hand/vit_clipreid.yml TEST.WEIGHT output/hand/ViT-B-16_60.pth"
EXAMPLES = (f"{_TRAINED} --output hand.onnx", f"{_TRAINED} --output hand.safetensors --half")
ONNX_PACKAGES = ("onnx", "onnxscript")
LABELS = {"cameras": "camids", "views": "viewids"}
"""Fields of a batch and the inputs of an ONNX file."""

OPSET = 18
"""Version of ONNX's operators; all of the network's have been there since."""


class TestFeature(nn.Module):
    """The feature that the evaluation compares, from images to numbers, in one module.

    Args:
        model: in eval mode.
        flip: add the feature of the mirror image (``TEST.FLIP``).
        normalise: divide by the L2 norm (``TEST.FEAT_NORM``).
    """

    __test__ = False  # pytest would take it for a test

    def __init__(self, model: Method, *, flip: bool, normalise: bool) -> None:
        super().__init__()
        self.model = model
        self.flip = flip
        self.normalise = normalise

    def forward(self, images: Tensor, camids: Tensor | None = None, viewids: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] and the labels [B] that side information reads -> [B, D]."""
        feature = widened(self.model.test_feature(Batch(images, cameras=camids, views=viewids), self.flip))
        return F.normalize(feature) if self.normalise else feature


def export_safetensors(model: Method, path: Path, facts: dict[str, str], half: bool = False) -> None:
    """Write the image encoder's tensors as ``visual.*`` or a backbone's own names, with ``facts`` as metadata.

    ``half`` stores them as float16.

    Raises:
        ReIDError: the package safetensors is missing, or ``path`` cannot be written.
    """
    save = _require("safetensors.torch").save
    for limit in _limits(model):
        LOGGER.warning("%s", limit)
    encoder = model.image_encoder
    prefix, network = ("", encoder.network) if isinstance(encoder, TimmEncoder) else ("visual.", encoder)
    tensors = {f"{prefix}{name}": t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    write_atomically(path, lambda file: file.write(save(tensors, {"format": "pt", **facts})))


def _limits(model: Method) -> list[str]:
    """What makes features differ in a network that is CLIP's own."""
    encoder, limits = model.image_encoder, []
    if isinstance(encoder, ModifiedResNet):
        limits.append(
            "the last stage has stride 1 here and 2 in CLIP: timm and open_clip agree up to stage 3 and differ after it"
        )
    elif isinstance(encoder, VisionTransformer) and encoder.conv1.stride != encoder.conv1.kernel_size:
        limits.append("the patches overlap here: timm and open_clip need their patch convolution's stride changed")
    if hasattr(model, "cv_embed"):
        limits.append("the side information (cv_embed) is no part of the image encoder and is left out")
    return limits


def export_onnx(
    model: Method,
    path: Path,
    image_size: tuple[int, int],
    *,
    flip: bool,
    normalise: bool,
    facts: Mapping[str, str] | None = None,
    half: bool = False,
) -> list[Path]:
    """Write the test feature as an ONNX file, with weights beyond 2 GiB in a second one beside it; returns the files.

    Its inputs are ``images`` [B, 3, H, W], normalised as in ``INPUT.*``, and ``camids``, ``viewids`` [B] (int64) as
    far as the side information has them; its output is ``features`` [B, D + E]. B is free, H and W are not. ``facts``
    go into its header; ``half`` stores the weights as float16.

    Raises:
        ReIDError: onnx or onnxscript is missing, or ``path`` cannot be written.
    """
    for package in ONNX_PACKAGES:
        _require(package)
    if beyond := model.inputs - LABELS.keys():
        raise ReIDError(
            f"the model reads {', '.join(sorted(beyond))} of each image, which an ONNX file cannot take yet."
        )
    inputs = {"images": torch.zeros(2, 3, *image_size)}
    inputs |= {LABELS[name]: torch.zeros(2, dtype=torch.int64) for name in sorted(model.inputs)}
    batch = torch.export.Dim("batch")
    for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # One name for the first axis of all inputs is what is meant here.
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        program = torch.onnx.export(
            TestFeature(model, flip=flip, normalise=normalise).eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["features"],
            dynamic_shapes={name: {0: batch} for name in inputs},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    return write_onnx(program, path, facts or {}, half)


@torch.no_grad()
def round_weights(network: TestFeature, image_size: tuple[int, int]) -> tuple[float, float]:
    """Round all parameters and buffers of ``network`` to float16, as far as features compute in float32 with them.

    Returns:
        How far features of eight random images move: largest difference of a number, and smallest cosine.

    Raises:
        ReIDError: a tensor holds numbers that float16 does not have.
    """
    draw = torch.Generator().manual_seed(0)
    inputs = {"images": torch.randn(8, 3, *image_size, generator=draw)}
    inputs |= {LABELS[name]: torch.zeros(8, dtype=torch.int64) for name in network.model.inputs}
    before = network(**inputs)
    for name, tensor in network.model.state_dict().items():
        if tensor.is_floating_point():
            rounded = tensor.half().float()
            if not rounded.isfinite().all():
                raise ReIDError(
                    f"--half: {name} holds {tensor.abs().max():.3g}; float16 ends at 65504. Leave --half out."
                )
            tensor.copy_(rounded)
    after = network(**inputs)
    return (after - before).abs().max().item(), F.cosine_similarity(before, after).min().item()


def _require(package: str) -> ModuleType:
    try:
        return import_optional(package)
    except MissingPackageError as error:
        name = package.partition(".")[0]
        raise ReIDError(
            f"the export needs the package {name}: {error}. Run pip install -r requirements-extra.txt."
        ) from None


def export(config_file: str, overrides: Sequence[str], output: Path, num_views: int = 0, half: bool = False) -> None:
    """Read ``TEST.WEIGHT`` and write it as the suffix of ``output`` says.

    Args:
        config_file, overrides: as for ``test_clipreid.py``.
        output: a ``.safetensors`` or ``.onnx`` file.
        num_views: of the training data; needed where side information has cameras and views.
        half: store weights as float16.

    Raises:
        ReIDError: another suffix, a missing package, or weights that cannot be read or do not fit.
    """
    setup_console(aside=False)
    if output.suffix not in (".safetensors", ".onnx"):
        raise ReIDError(f"--output {output}: the name must end in .safetensors or .onnx.")
    for package in ONNX_PACKAGES if output.suffix == ".onnx" else ("safetensors.torch",):
        _require(package)  # before the weights are read
    cfg, notes = load_config(config_file, overrides)
    if output.suffix == ".onnx":
        check_metric(cfg.TEST.METRIC)
    for note in notes:
        LOGGER.info("note: %s", note)
    check_weights(cfg, test=True)
    if cfg.MODEL.SIE_CAMERA and cfg.MODEL.SIE_VIEW and not num_views:
        raise ReIDError("MODEL.SIE_CAMERA and MODEL.SIE_VIEW are both on: add --num_views and those of the training.")
    model = make_test_model(cfg, DataFacts(1, views=num_views or 1)).eval()
    size = (cfg.INPUT.SIZE_TRAIN[0], cfg.INPUT.SIZE_TRAIN[1])
    how = {"flip": cfg.TEST.FLIP, "normalise": cfg.TEST.FEAT_NORM == "yes"}
    if half:
        moved, cosine = round_weights(TestFeature(model, **how).eval(), size)
        LOGGER.info("float16 weights: features of random images differ by at most %.1e, cosine %.7f", moved, cosine)
    written = [output]
    if output.suffix == ".safetensors":
        export_safetensors(model, output, _facts(cfg), half)
    else:
        written = export_onnx(model, output, size, **how, facts=_facts(cfg) | _test_facts(cfg), half=half)
    LOGGER.info("%s written from %s", " and ".join(str(file) for file in written), cfg.TEST.WEIGHT)


def _facts(cfg: CfgNode) -> dict[str, str]:
    """What a user of the weights has to know about the images."""
    values = {
        "method": cfg.MODEL.METHOD,
        "architecture": cfg.MODEL.NAME,
        "activation": cfg.MODEL.ACTIVATION,
        "stride": cfg.MODEL.STRIDE_SIZE,
        "image_size": cfg.INPUT.SIZE_TRAIN,
        "pixel_mean": cfg.INPUT.PIXEL_MEAN,
        "pixel_std": cfg.INPUT.PIXEL_STD,
        "interpolation": cfg.INPUT.INTERPOLATION_TEST,
        "fit": cfg.INPUT.FIT_TEST,
        "exif": cfg.INPUT.EXIF,
        "align": cfg.INPUT.ALIGN,
    }
    return {name: str(value) for name, value in values.items()}


def _test_facts(cfg: CfgNode) -> dict[str, str]:
    """What has been done to the features, in an ONNX file, and how they are compared."""
    return {key.lower(): str(cfg.TEST[key]) for key in ("FEATURE", "NECK_FEAT", "FLIP", "FEAT_NORM", "METRIC")}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m model.export", __doc__, EXAMPLES)
    parser.add_argument("--config_file", metavar="FILE", required=True, help="YAML file of the training")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="a .safetensors or .onnx file")
    parser.add_argument(
        "--num_views", metavar="V", type=int, default=0, help="views of the training data, for SIE_CAMERA with SIE_VIEW"
    )
    parser.add_argument("--half", action="store_true", help="store the weights as float16, in half the space")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="configuration keys that override the file: TEST.WEIGHT PATH"
    )
    arguments = parser.parse_intermixed_args(argv)
    given = (arguments.config_file, arguments.opts, arguments.output, arguments.num_views, arguments.half)
    return run_script(partial(export, *given))


if __name__ == "__main__":
    sys.exit(main())

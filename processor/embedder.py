"""A trained model as one function: images in, features out. For notebooks, extraction and search.

>>> from processor import load_embedder
>>> embedder = load_embedder("configs/hand/demo.yml", "output/hand/demo/RN-Small_16.pth")
>>> embedder.embed(["a.jpg", "b.jpg"]).shape
(2, 1280)
>>> embedder.embed("a.jpg").shape, embedder.embed(pixels).shape  # one image: a path, a picture, an array [H, W, 3]
((1, 1280), (1, 1280))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs import load_config
from datasets.preprocessing import test_transform
from datasets.reading.alignment import WindowsByName
from datasets.reading.images import reading_of
from datasets.reading.mirroring import MirroredByName
from datasets.reading.pictures import Pictures, Preparation, collate
from datasets.reading.workers import num_workers
from model import DataFacts, check_weights, make_test_model
from model.export import TestFeature
from processor.biometrics.trust import calibration_facts, trusted_calibration
from utils.biometric.scores.calibration import Calibration, Evidence
from utils.compute.device import choose_device, choose_precision
from utils.console.interrupt import check_interrupt, ignore_signals
from utils.console.logger import LOGGER
from utils.console.progress import image_bar
from utils.errors import ReIDError
from utils.images import AS_STORED, Reading, read_image, to_rgb
from utils.optional import MissingPackageError, import_optional
from utils.retrieval.coordinates import check_metric
from utils.windows import Target

if TYPE_CHECKING:
    from yacs.config import CfgNode

Compute = Callable[[Pictures], Tensor]
"""From B pictures to features [B, D] in float32 on the CPU."""


SIDE = {"cameras", "views"}
"""What a model may read besides images; loose ones have neither and are embedded without."""

ADVICE = "Repair it, correct its name or leave it out."


Picture = str | Path | Image.Image | np.ndarray
"""A file, an open picture, or pixels [H, W, 3] in RGB (or [H, W] in grey) from 0 to 255 as uint8."""


class _Pictures(Dataset):
    def __init__(self, pictures: Sequence[Picture], embedder: Embedder) -> None:
        self.pictures, self.embedder = pictures, embedder

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Pictures]:
        return {"images": self.embedder.prepare(self._read(self.pictures[index]))}

    def _read(self, picture: Picture) -> Image.Image:
        own = self.embedder
        if isinstance(picture, Image.Image):
            return to_rgb(picture, own.reading)
        if isinstance(picture, np.ndarray):
            return Image.fromarray(picture).convert("RGB")
        return read_image(_path(picture), own.reading, own.at_least, ADVICE, own.target)


def _path(picture: str | Path) -> str:
    return os.path.expanduser(picture)  # noqa: PTH111 -- a Path each is slow


def _checked(picture: object, number: int) -> Picture:
    """``picture``, the ``number``-th of those to embed, if it is one."""
    if isinstance(picture, Image.Image | str | Path):
        return picture
    if not isinstance(picture, np.ndarray):
        found = f"a {type(picture).__name__}"
    elif picture.dtype == np.uint8 and picture.ndim in (2, 3) and picture.shape[2:] in ((), (3,)) and picture.size:
        return picture
    else:
        found = f"an array {list(picture.shape)} of {picture.dtype}"
    raise ReIDError(
        f"image {number}: expected a path, a PIL image or an array [H, W, 3] of uint8 in RGB, found {found}. "
        "Scale other numbers to 0..255 and put the channels last."
    )


@dataclass(frozen=True)
class Embedder:
    """Features of images, computed as the evaluation does.

    Attributes:
        compute: the network.
        prepare: from a picture to what travels to the network.
        reading: how a file becomes a picture.
        batch_size: images at a time.
        workers: processes that read images.
        at_least: pixels that will do of a JPEG, see :func:`utils.images.decode`; None for all.
        calibrated: gives the calibration of the weights, or an error with the reason why there is none.
        target: what an aligned picture becomes.
        windows: of images that are aligned, None where none is.
    """

    compute: Compute
    prepare: Preparation
    reading: Reading = AS_STORED
    batch_size: int = 64
    workers: int = 0
    at_least: int | None = None
    calibrated: Callable[[], Calibration] | None = None
    target: Target | None = None
    windows: WindowsByName | None = None

    def embed(self, images: Picture | Iterable[Picture]) -> np.ndarray:
        """Features [N, D] in float32 of ``images``, in their order.

        Args:
            images: paths, PIL images and arrays, see :data:`Picture`, in any mixture; or one of them, which gives
                [1, D]. An array [N, H, W, 3] is N images, an empty list or generator none: [0, D].

        Raises:
            ReIDError: something else, or a file that is no readable image.
        """
        one = isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
        if not one and not isinstance(images, Iterable):
            _checked(images, 1)
        found = list(self.batches([images] if one else list(images)))
        return np.concatenate(found) if found else self._features(Image.new("RGB", (1, 1)))[:0]

    def calibration(self) -> Calibration:
        """The calibration beside the weights.

        Raises:
            ReIDError: there is none, or it is of other weights.
        """
        if self.calibrated is None:
            raise ReIDError("this embedder was not loaded from a file of weights, so it has no calibration.")
        return self.calibrated()

    def compare(self, first: Picture, second: Picture) -> Evidence:
        """The evidence of two images for one hand.

        Raises:
            ReIDError: an image cannot be read, or the weights have no calibration.
        """
        calibration = self.calibration()
        one, other = self.embed([first, second]).astype(np.float64)
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        return calibration.answer(float(one @ other / lengths))

    def _features(self, picture: Image.Image) -> np.ndarray:
        return self.compute(self.prepare(picture)).numpy()

    def _check_alignment(self, pictures: Sequence[Picture]) -> None:
        """Warn of images that are used as a whole; refuse files of which none has key points."""
        paths = [_path(picture) for picture in pictures if isinstance(picture, str | Path)]
        unaligned = self.windows.require(paths, len(pictures) - len(paths)) if self.windows else ""
        if unaligned:
            LOGGER.warning("%s", unaligned)

    def batches(self, images: Sequence[Picture], done: int = 0) -> Iterator[np.ndarray]:
        """The same in pieces [b, D]; ``done`` images before these are counted by the progress bar."""
        pictures = _Pictures([_checked(image, number) for number, image in enumerate(images, 1)], self)
        self._check_alignment(pictures.pictures)
        workers = self.workers if len(pictures) > 2 * self.batch_size else 0
        with image_bar(done + len(pictures), "features", done) as bar:
            for batch in DataLoader(
                pictures, self.batch_size, num_workers=workers, worker_init_fn=ignore_signals, collate_fn=collate
            ):
                check_interrupt("computing features")
                yield self.compute(batch["images"]).numpy()
                bar.update(len(batch["images"]))


def load_embedder(config_file: str | Path, weight: str | Path, overrides: Sequence[str] = ()) -> Embedder:
    """The model in ``weight``, ready for :meth:`Embedder.embed`.

    Args:
        config_file: YAML file of the training, or the ``config.yml`` in its folder.
        weight: a checkpoint, or an ``.onnx`` file that ``python -m model.export`` wrote.
        overrides: ``[KEY, VALUE, ...]``, as on the command line.

    Raises:
        ReIDError: the configuration or the weights cannot be read or do not fit each other.
    """
    cfg, _ = load_config(config_file, [*overrides, "TEST.WEIGHT", str(weight)])
    check_metric(cfg.TEST.METRIC)
    inputs = cfg.INPUT
    how = {"interpolation": inputs.INTERPOLATION_TEST, "fit": inputs.FIT_TEST}
    prepare = Preparation(test_transform(inputs.SIZE_TEST, inputs.PIXEL_MEAN, inputs.PIXEL_STD, **how))
    compute = _onnx_network(cfg) if Path(weight).suffix == ".onnx" else _torch_network(cfg)
    at_least = max(inputs.SIZE_TEST) if inputs.JPEG_DRAFT else None
    path = Path(weight)
    calibrated = partial(_calibration, cfg, path)
    windows = WindowsByName(cfg)
    reading = reading_of(cfg, mirrored=MirroredByName(inputs.MIRROR, cfg.DATASETS.PATTERN), windows=windows)
    return Embedder(
        compute,
        prepare,
        reading,
        cfg.TEST.IMS_PER_BATCH,
        num_workers(cfg),
        at_least,
        calibrated,
        Target((inputs.SIZE_TEST[0], inputs.SIZE_TEST[1]), **how),
        windows,
    )


def _calibration(cfg: CfgNode, weight: Path) -> Calibration:
    return trusted_calibration(weight, calibration_facts(cfg, weight))


def _torch_network(cfg: CfgNode) -> Compute:
    check_weights(cfg, test=True)
    device = choose_device(cfg.MODEL.DEVICE, cfg.MODEL.DEVICE_ID)
    model = make_test_model(cfg, DataFacts(1, views=1))
    if beyond := model.inputs - SIDE:
        raise ReIDError(
            f"MODEL.METHOD {cfg.MODEL.METHOD} reads {', '.join(sorted(beyond))} of each image, which loose images do "
            "not have. Evaluate a data set that has them with test_clipreid.py."
        )
    if model.inputs:
        LOGGER.warning("loose images have no camera or view label: features are computed without side information")
    network = TestFeature(model, flip=cfg.TEST.FLIP, normalise=cfg.TEST.FEAT_NORM == "yes").to(device).eval()

    precision = choose_precision(cfg.TEST.PRECISION, device)

    @torch.no_grad()
    def compute(images: Pictures) -> Tensor:
        with precision.autocast():
            return network(images.to(device)).float().cpu()

    return compute


def _onnx_network(cfg: CfgNode) -> Compute:
    """The file's own TEST.FLIP, TEST.FEAT_NORM and TEST.NECK_FEAT hold, not those of ``cfg``."""
    path = Path(cfg.TEST.WEIGHT)
    try:
        onnxruntime = import_optional("onnxruntime")
    except MissingPackageError as error:
        raise ReIDError(
            f"{path} needs the package onnxruntime; {error}. Run pip install -r requirements-extra.txt."
        ) from None
    if not path.is_file():
        raise ReIDError(f"TEST.WEIGHT = {path}: no such file. Write it with python -m model.export.")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's own classes, one for each of its status codes
        raise ReIDError(f"TEST.WEIGHT = {path}: not a readable ONNX file ({error}).") from None
    names = [entry.name for entry in session.get_inputs()]
    size = list(session.get_inputs()[0].shape[2:])
    if names != ["images"] or size != list(cfg.INPUT.SIZE_TEST):
        raise ReIDError(
            f"TEST.WEIGHT = {path} takes {', '.join(names)} of {size} pixels; expected images of INPUT.SIZE_TEST = "
            f"{cfg.INPUT.SIZE_TEST} alone. Export it without side information, with the same configuration."
        )
    return lambda images: torch.from_numpy(session.run(None, {"images": images.to("cpu").numpy()})[0])

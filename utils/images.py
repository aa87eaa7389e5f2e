"""Decoding image files of any kind to RGB."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from utils.errors import ReIDError
from utils.windows import Target, Window, cut, frame_of

_SUFFIXES = "jpg jpeg jpe jfif mpo png apng bmp dib tif tiff webp gif ppm pgm pbm pnm pfm"

IMAGE_SUFFIXES = frozenset(f".{ending}" for ending in _SUFFIXES.split())
"""What image files in a folder are known by."""

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")
"""What is decoded, whatever the name says; Pillow would start another program for some others (EPS)."""

ADVICE = "Replace or remove it, or start again with DATASETS.BAD_IMAGES skip."

# Pillow warns of each photograph above 89 megapixels and of each odd block of metadata, once for each process that
# reads it; the project reports such files itself where that matters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""
_BACK = _TURNS | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""What undoes that."""
_ON_ITS_SIDE = (5, 6, 7, 8)

_FLOAT_MARGIN = 2.0
"""White of floats is 1. Values up to this bound are overshoots of resampling; larger ones have another unit."""

_DEEP = ("I", "I;16", "F")

_KINDS = {
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"\xff\x0a": "a JPEG XL image",
    b"8BPS": "a Photoshop image",
    b"\0\0\1\0": "an icon",
    b"v/1\1": "an OpenEXR image",
    b"qoif": "a QOI image",
    b"SIMPLE  =": "a FITS image",
    b"#?RADIANCE": "a Radiance image",
}
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "a HEIC image"
)
"""Beginnings of image files that are not read; the brand stands behind ``ftyp``, four bytes into the file."""

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the picture as it is read."""


class Windows(Protocol):
    """From the path of a picture to its upright part."""

    def get(self, path: str) -> Window | None:
        """None: it has none."""


class Place(NamedTuple):
    """What is used of a picture: see :class:`Reading`."""

    box: Box | None = None
    mirrored: bool = False
    window: Window | None = None


@dataclass(frozen=True)
class Reading:
    """How the files of a data set become pictures, the same in training, test, extraction and search.

    Attributes:
        upright: turn photographs as their EXIF orientation says.
        white: stored value that becomes 255 in grey files of more than 8 bits; None: the one that the file's format
            states. It is never taken from the pixels, so equal values are equally bright in all files of a set:
            2^b - 1 for b bits (of a TIFF its BitsPerSample, of a PGM its largest value), 1 for floats.
        boxes: by path, the part of a picture that is used, where not all of it is.
        mirrored: paths of the pictures that are mirrored, left hands for example (``INPUT.MIRROR``).
        windows: by path, the upright part of a picture that is used in place of its box (``INPUT.ALIGN``).
    """

    upright: bool = False
    white: float | None = None
    boxes: Mapping[str, Box] = field(default_factory=dict, repr=False)
    mirrored: Container[str] = field(default=frozenset(), repr=False)
    windows: Windows = field(default_factory=dict, repr=False)

    def place(self, path: str) -> Place:
        """Which part of the picture at ``path`` is used, and whether it is mirrored."""
        return Place(self.boxes.get(path), path in self.mirrored, self.windows.get(path))


AS_STORED = Reading()


class Decoded(NamedTuple):
    """A picture and what is known of its file.

    Attributes:
        picture: in RGB.
        width, height: of the file in pixels, turned as the picture is, before any box is cut out.
        bits: of one sample, as the file states them.
        peak: brightest value of a grey file of more than 8 bits, as stored; None for others.
        white: the value that became 255 there.
        pages: whether there are more pages or frames than the one that is read.
        broken_exif: whether the orientation was wanted and the EXIF block cannot be read.
    """

    picture: Image.Image
    width: int
    height: int
    bits: int
    peak: float | None
    white: float
    pages: bool
    broken_exif: bool


class UnknownWhiteError(ValueError):
    """A file whose format does not state what white is, or whose values contradict it; ``peak`` is its brightest."""

    def __init__(self, what: str, peak: float) -> None:
        super().__init__(f"{what}: the brightest value here is {peak:g}; set INPUT.WHITE to what is white in all files")
        self.peak = peak


def read_image(
    path: str | Path,
    reading: Reading = AS_STORED,
    at_least: int | None = None,
    advice: str = ADVICE,
    target: Target | None = None,
) -> Image.Image:
    """The picture in RGB; of an animation or several pages, the first. Alpha is dropped, grey is repeated.

    Grey values of more than 8 bits, which Pillow would cut off at 255, are scaled to 8 bits as ``reading`` says.
    Negative values and NaN are black, values above white are white.

    Args:
        path: the file.
        reading: how it is read.
        at_least: see :func:`decode`.
        advice: what to do about a file that cannot be read, for the message.
        target: see :func:`decode`.

    Raises:
        ReIDError: the file is missing or no readable image.
    """
    try:
        return decode(path, reading, at_least, target).picture
    except ReIDError:
        raise
    except Exception as error:  # damaged files make Pillow raise anything from OSError to TypeError
        raise ReIDError(f"{path}: cannot be read as an image ({cause(path, error)}). {advice}") from None


def decode(
    path: str | Path, reading: Reading = AS_STORED, at_least: int | None = None, target: Target | None = None
) -> Decoded:
    """As :func:`read_image`, with Pillow's own errors; smaller where that is faster and ``at_least`` pixels will do.

    ``target`` is what a picture of which a window is used becomes, in the same step. Others keep their size.
    """
    if not os.path.isfile(path):  # noqa: PTH113 -- a Path each is slow; opening a pipe would wait for ever
        raise FileNotFoundError
    place = reading.place(str(path))
    with Image.open(path, formats=FORMATS) as image:
        size = image.size
        if at_least is not None and place.box is None:
            window = place.window.size if place.window else None
            wanted = at_least if window is None else math.ceil(at_least * max(size) / max(1.0, min(window)))
            image.draft("RGB", (wanted, wanted))
        return _decoded(image, size, reading, place, target)


def to_rgb(image: Image.Image, reading: Reading = AS_STORED, name: str = "image") -> Image.Image:
    """An open picture as :func:`read_image` gives that of a file; ``name`` is its name in messages.

    Raises:
        ReIDError: as :func:`read_image`.
    """
    # A loaded picture has no header any more, and Pillow has rotated TIFF files.
    image = image if getattr(image, "tile", None) else image.copy()
    place = Place(mirrored=name in reading.mirrored)
    try:
        return _decoded(image, image.size, reading, place).picture
    except Exception as error:  # as for files
        raise ReIDError(f"{name}: cannot be read ({str(error) or type(error).__name__}).") from None


def _decoded(
    image: Image.Image, size: tuple[int, int], reading: Reading, place: Place, target: Target | None = None
) -> Decoded:
    """``size`` is that of the file, before any draft."""
    samples = _samples(image)
    turns_itself = image.format == "TIFF"
    orientation = _orientation(image) if reading.upright or turns_itself else 1
    image.load()
    peak, white, picture = _to_rgb(image, samples, reading.white)
    # Pillow rotates TIFF files while it loads them and then drops their orientation.
    turned = turns_itself and orientation in _TURNS and _orientation(image) not in _TURNS
    if reading.upright and not turned and orientation in _TURNS:
        picture = picture.transpose(_TURNS[orientation])
    elif turned and not reading.upright:
        picture = picture.transpose(_BACK[orientation])
    if turns_itself:
        size = picture.size
    elif reading.upright and orientation in _ON_ITS_SIDE:
        size = size[::-1]
    if place.window is not None:
        picture = _upright(picture, size, place, target)
    elif place.box is not None:
        picture = _cut(picture, place.box)
    picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if place.mirrored else picture
    return Decoded(picture, *size, samples.bits, peak, white, _has_pages(image), orientation is None)


def _orientation(image: Image.Image) -> int | None:
    """EXIF orientation, 1 where there is none; None: the block is broken, which makes the picture no worse."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # about anything, by format and damage
        return None


def _has_pages(image: Image.Image) -> bool:
    """Not of photographs with a depth map or a preview (MPO): those are no pages."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second page; the first is read
        return False


def _cut(picture: Image.Image, box: Box) -> Image.Image:
    left, top, width, height = box
    if left + width > picture.width or top + height > picture.height:
        raise ValueError(
            f"the box x {left}, y {top}, w {width}, h {height} reaches beyond its {picture.width}x{picture.height} "
            "pixels"
        )
    return picture.crop((left, top, left + width, top + height))


def _upright(picture: Image.Image, size: tuple[int, int], place: Place, target: Target | None) -> Image.Image:
    """The window of ``picture``, which has ``size`` in its file; where it names the whole, the box is meant."""
    window = place.window
    if window.of is not None and window.of != size:
        raise ValueError(
            f"its key points are of a picture of {window.of[0]}x{window.of[1]} pixels, it has {size[0]}x{size[1]}: "
            "find them again, python -m datasets.keypoints"
        )
    frame = frame_of(window, place.box or (0, 0, *size))
    return cut(picture, frame, picture.width / size[0], target)


class _Samples(NamedTuple):
    """How a file stores values of more than 8 bits.

    Attributes:
        bits: of a sample.
        white: as the format states it; 0 where it does not.
        unit: stored value of Pillow's 1: it stretches PGM files to 16 bits.
        inverted: whether 0 is white.
    """

    bits: int
    white: float
    unit: float = 1.0
    inverted: bool = False


def _samples(image: Image.Image) -> _Samples:
    """Read from the header, part of which Pillow drops once the image is loaded."""
    raw = [tile[3] for tile in getattr(image, "tile", ())]  # none where the picture is loaded already
    if image.format == "PPM":
        largest = raw[0][1] if isinstance(raw[0], tuple) and len(raw[0]) == 2 else 65535 if image.mode == "I" else 255
        return _Samples(32, 1) if image.mode == "F" else _Samples(largest.bit_length(), largest, largest / 65535)
    if image.format != "TIFF":
        sixteen = image.mode in _DEEP or any("16" in str(args) for args in raw)
        return _Samples(16, 65535) if sixteen else _Samples(8, 255)
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0]
    kind = image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0]
    inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    if image.mode == "F":
        return _Samples(bits, 1, inverted=inverted)
    white = 2 ** (bits - (kind == 2)) - 1 if bits <= 16 else 0
    return _Samples(bits, white, inverted=inverted)


def _to_rgb(image: Image.Image, samples: _Samples, white: float | None) -> tuple[float | None, float, Image.Image]:
    """The brightest stored value and white of deep grey, and the picture in RGB."""
    if image.mode[:4] not in _DEEP:  # I;16B is I;16 in another byte order
        if samples.bits > 8 and white not in (None, samples.white):
            raise ValueError(
                f"colours of {samples.bits} bits, of which the upper 8 are read, while INPUT.WHITE is {white:g}; save "
                "it with 8 bits"
            )
        if "transparency" in image.info:
            image = image.convert("RGBA")  # Pillow warns of each palette with transparency that becomes RGB directly
        return None, 255, image.convert("RGB")
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0) * np.float32(samples.unit)
    peak = float(values.max()) if image.mode == "F" else round(float(values.max()))
    if white is None and not samples.white:
        raise UnknownWhiteError(f"integers of {samples.bits} bits, whose white no format states", peak)
    if white is None and image.mode == "F" and peak > _FLOAT_MARGIN:
        raise UnknownWhiteError("floats, whose white is 1", peak)
    white = white or samples.white
    shares = (values / white).clip(0, 1)
    shares = 1 - shares if samples.inverted else shares
    return peak, white, Image.fromarray(np.rint(255 * shares).astype(np.uint8)).convert("RGB")


def likely_white(peak: float) -> int:
    """What is probably white where ``peak`` is the brightest value of a set: the next 2^b - 1 from 8 bits on, or 1."""
    return 1 if peak <= _FLOAT_MARGIN else max(255, 2 ** int(np.ceil(np.log2(peak + 1))) - 1)


def cause(path: str | Path, error: Exception) -> str:
    """Why ``path`` cannot be read, in words that do not repeat the path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        return f"larger than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels; save it smaller"
    if isinstance(error, UnidentifiedImageError):
        if os.path.getsize(path) == 0:  # noqa: PTH202
            return "the file is empty"
        with open(path, "rb") as file:  # noqa: PTH123
            return _kind(file) or "not an image, despite its name"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _kind(file: BinaryIO) -> str:
    """Name of an image format outside :data:`FORMATS`; empty where the file is of no known format."""
    head = file.read(132)
    known = next((kind for start, kind in _KINDS.items() if head.startswith(start)), "")
    if head[4:8] == b"ftyp":
        known = _BRANDS.get(head[8:12], "")
    if head[128:] == b"DICM":
        known = "a DICOM image"
    if known:
        return f"{known}, which is not read; save it as PNG"
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(head[: 16 if head[2:4] in (b"+\0", b"\0+") else 8])
        file.seek(directory.next)
        directory.load(file)
        channels = directory.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        bits = directory[TiffImagePlugin.BITSPERSAMPLE][0]
    except Exception:  # as for any damaged file
        return "a damaged TIFF file"
    what = f"{channels} channel{'s' if channels > 1 else ''} of {bits} bits"
    return f"a TIFF file with {what}, which is not read; save it as grey or RGB of 8 bits, or grey of 16"

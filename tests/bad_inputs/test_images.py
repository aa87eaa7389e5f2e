"""Files that are no images, too large or unusual, read as a data set's photographs are read."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import load_config
from datasets.reading.images import examine
from tests.bad_inputs.kit import CANARY, Case, cases, judge
from utils.images import Reading, read_image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def drawn(image, kind, cut=None, **options):
    """The bytes of ``image`` as ``kind``, the last ``cut`` left out."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()[:cut]


def plain(colour=RED, size=(8, 6), mode="RGB"):
    return Image.new(mode, size, colour)


def halves(size=(8, 6)):
    """Left half red, right half blue, so that the orientation can be seen."""
    image = plain(RED, size)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def frames(kind, **options):
    others = [plain(GREEN), plain(BLUE)]
    return drawn(plain(), kind, save_all=True, append_images=others, duration=40, **options)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, pixels=b"", extra=b"", depth=8, colour=0):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def tiff(width, height, *more):
    """A TIFF of one empty strip with a given size."""
    tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1)}
    tags |= {278: (4, height), 279: (4, 16)} | {tag: rest for tag, *rest in more}
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + struct.pack("<H", len(tags)) + entries + bytes(4)


def rotated(kind, orientation=6, image=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return drawn(image or halves(), kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))


def shape(width, height, colour=None):
    """A check that a picture has this size and about this colour."""

    def fits(image):
        same = colour is None or np.abs(np.asarray(image).astype(int) - colour).max() < 12
        return image.mode == "RGB" and image.size == (width, height) and same

    return fits


def order(text):
    return lambda path: path.write_text(text.replace("CANARY", str(path.parent / CANARY)))


NOT_AN_IMAGE = "not an image, despite its name"
NO_FILE = "there is no such file"
BOMB = "larger than 178 megapixels; save it smaller"
NOT_READ = ", which is not read; save it as"
SIXTEEN = np.full((6, 8), 32896, np.uint16)
PALETTE = halves().quantize(4)

IMAGES = cases(
    # too large
    Case("bomb.png", png(60_000, 60_000, bytes(1 << 20)), BOMB),
    Case("bomb.gif", b"GIF89a" + struct.pack("<HHBBB", 65_000, 65_000, 0, 0, 0) + b";", f"{BOMB}|{NOT_AN_IMAGE}"),
    Case(
        "bomb-frame.gif", b"GIF89a\x08\0\x06\0\0\0\0,\0\0\0\0" + struct.pack("<HH", 65_000, 65_000) + b"\0\x02\0;", "."
    ),
    Case("bomb.tif", tiff(60_000, 60_000), BOMB),
    Case(
        "bomb.bmp", b"BM" + struct.pack("<IIIIiiHHIIIIII", 70, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0), BOMB
    ),
    Case("bomb.ppm", b"P6 60000 60000 255\n", BOMB),
    Case("bomb-text.png", png(1, 1, b"\0\0", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))), "."),
    Case("bomb-profile.png", png(1, 1, b"\0\0", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80_000_000)))), "."),
    Case("negative.bmp", b"BM" + struct.pack("<IIIIiiHHIIIIII", 70, 0, 54, 40, -5, 5, 1, 24, 0, 0, 0, 0, 0, 0), "."),
    Case("no-pixels.png", png(0, 0), "."),
    Case("directory-in-itself.tif", tiff(8, 2, (330, 4, 24)), shape(8, 2, (0, 0, 0))),
    # no image, or one that would start a program
    Case("postscript.jpg", order("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(CANARY) (w) file\n"), NOT_AN_IMAGE),
    Case(
        "vector.jpg", order("<svg xmlns='http://www.w3.org/2000/svg'><image href='file://CANARY'/></svg>"), NOT_AN_IMAGE
    ),
    Case("document.jpg", b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n", NOT_AN_IMAGE),
    Case("picture.psd", b"8BPS\0\1" + bytes(100), f"a Photoshop image{NOT_READ}"),
    Case("icon.jpg", drawn(plain(size=(16, 16)), "ICO"), f"an icon{NOT_READ}"),
    Case("wavelets.jpg", drawn(plain(size=(16, 16)), "JPEG2000"), f"a JPEG 2000 image{NOT_READ}"),
    Case("phone.jpg", b"\0\0\0\x18ftypheic" + bytes(100), f"a HEIC image{NOT_READ}"),
    Case("two-channels.tif", tiff(8, 6, (277, 3, 2)), f"2 channels of 8 bits{NOT_READ}"),
    Case("six-channels.tif", tiff(8, 6, (277, 3, 6)), f"6 channels of 8 bits{NOT_READ}"),
    Case("head.tif", b"II*\0" + bytes(9), "a damaged TIFF file"),
    Case("film.jpg", b"\0\0\0\x18ftypmp42" + bytes(100), NOT_AN_IMAGE),
    Case("page.jpg", b"<html>404</html>", NOT_AN_IMAGE),
    Case("zeros.jpg", bytes(5000), NOT_AN_IMAGE),
    Case("empty.jpg", b"", "the file is empty"),
    Case("newline.jpg", b"\n", NOT_AN_IMAGE),
    Case("start.jpg", b"\xff\xd8\xff", "."),
    Case("head.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "."),
    Case("cut.jpg", drawn(Image.effect_noise((64, 64), 90), "JPEG", -300), "truncated"),
    Case("cut.png", drawn(Image.effect_noise((64, 64), 90), "PNG", -300), "."),
    Case("cut.gif", drawn(Image.effect_noise((64, 64), 90), "GIF", -300), "."),
    Case("cut.webp", drawn(Image.effect_noise((64, 64), 90), "WEBP", -300), "."),
    Case("cut.tif", drawn(Image.effect_noise((64, 64), 90), "TIFF", -3000), "."),
    Case("checksum.png", drawn(halves(), "PNG").replace(b"IDAT", b"IDAU"), "."),
    Case("folder.jpg", lambda path: path.mkdir(), NO_FILE),
    Case("pipe.jpg", os.mkfifo, NO_FILE),
    Case("device.jpg", lambda path: path.symlink_to("/dev/zero"), NO_FILE),
    Case("terminal.jpg", lambda path: path.symlink_to("/dev/tty"), NO_FILE),
    Case("loop.jpg", lambda path: path.symlink_to(path), NO_FILE),
    Case("dangling.jpg", lambda path: path.symlink_to(path.parent / "nowhere.jpg"), NO_FILE),
    Case("gone.jpg", lambda path: None, NO_FILE),
    # odd, and used
    Case("one-pixel.png", drawn(plain(size=(1, 1)), "PNG"), shape(1, 1, RED)),
    Case("line.png", drawn(plain(size=(2000, 1)), "PNG"), shape(2000, 1, RED)),
    Case("sixteen-bits.png", drawn(Image.fromarray(SIXTEEN), "PNG"), shape(8, 6, (128, 128, 128))),
    Case("sixteen-bits.tif", drawn(Image.fromarray(SIXTEEN), "TIFF"), shape(8, 6, (128, 128, 128))),
    Case("sixteen-bit-colour.png", png(2, 1, b"\0" + b"\xff\xff\0\0\0\0" * 2, depth=16, colour=2), shape(2, 1, RED)),
    Case("bits.png", drawn(plain(1, mode="1"), "PNG"), shape(8, 6, (255, 255, 255))),
    Case("grey-alpha.png", drawn(plain((90, 7), mode="LA"), "PNG"), shape(8, 6, (90, 90, 90))),
    Case("alpha.png", drawn(plain((255, 0, 0, 0), mode="RGBA"), "PNG"), shape(8, 6, RED)),  # alpha is dropped
    Case("cmyk.jpg", drawn(plain((0, 255, 255, 0), mode="CMYK"), "JPEG", quality=100), shape(8, 6, RED)),
    Case("cmyk.tif", drawn(plain((0, 255, 255, 0), mode="CMYK"), "TIFF"), shape(8, 6, RED)),
    # Pillow before 13 reads no uncompressed YCbCr.
    Case(
        "ycbcr.tif", drawn(plain(mode="YCbCr", colour=(76, 85, 255)), "TIFF", compression="tiff_lzw"), shape(8, 6, RED)
    ),
    Case("lab.tif", drawn(plain((128, 0, 0), mode="LAB"), "TIFF"), shape(8, 6)),
    Case("palette.png", drawn(PALETTE, "PNG", transparency=0), shape(8, 6)),
    Case("palette-alphas.png", drawn(PALETTE, "PNG", transparency=b"\0\x80"), shape(8, 6)),
    Case("animated.gif", frames("GIF"), shape(8, 6, RED)),
    Case("animated.png", frames("PNG"), shape(8, 6, RED)),
    Case("animated.webp", frames("WEBP", lossless=True), shape(8, 6, RED)),
    Case("pages.tif", frames("TIFF"), shape(8, 6, RED)),
    Case("png-in-truth.jpg", drawn(plain(), "PNG"), shape(8, 6, RED)),
    Case("trailing.png", drawn(plain(), "PNG") + b"PK\x03\x04" + b"x" * 1000, shape(8, 6, RED)),
    Case("orientation.jpg", rotated("JPEG"), shape(8, 6)),
    Case("orientation-nonsense.jpg", rotated("JPEG", 77), shape(8, 6)),
    Case(
        "broken-exif.jpg",
        drawn(plain(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=100),
        shape(8, 6, (254, 0, 0)),
    ),
    Case(
        "link.png",
        lambda path: (path.with_name("x").write_bytes(drawn(plain(), "PNG")), path.symlink_to("x")),
        shape(8, 6),
    ),
)


@IMAGES
@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_images(tmp_path, case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        judge(case, tmp_path, read_image)
        refused = examine(str(tmp_path / case.name)).unreadable
    assert bool(refused) == isinstance(case.expected, str), "the check before training gives the message of reading"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("exif", [False, True])
def test_orientation_is_applied_where_configured(tmp_path, kind, exif):
    """Orientation 6: the camera was turned by 90 degrees, so the stored left edge is the upper edge of the picture."""
    path = tmp_path / "photo"
    path.write_bytes(rotated(kind, image=halves((16, 12))))
    found = np.asarray(read_image(path, Reading(upright=exif))).astype(int)
    assert found.shape == ((16, 12, 3) if exif else (12, 16, 3))
    expected = np.asarray(halves((16, 12)).rotate(-90, expand=True) if exif else halves((16, 12)))
    assert np.abs(found - expected).max() < 100  # red and blue are 255 apart


RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*/*.yml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_recipes_turn_photographs_upright_where_phones_took_them(recipe):
    """The published sets are read as stored; users' own hands and key points are read upright."""
    cfg, _ = load_config(recipe)
    assert cfg.INPUT.EXIF is (cfg.DATASETS.NAMES in ("hand", "listing") or cfg.MODEL.METHOD == "horeid")

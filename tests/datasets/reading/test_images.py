"""Every kind of image file, the check that finds the broken ones, and items that depend only on their random draw."""

import io
import os
import random
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms

from datasets.bases import Record
from datasets.inspect.fingerprints import fingerprint
from datasets.preprocessing import test_transform as plain_transform
from datasets.preprocessing import train_transform
from datasets.reading.images import ImageDataset, examine, look_over
from datasets.sampler import SeededIndex
from tests.datasets.hand_trees import message
from tests.datasets.pictures import pixels, save
from tests.fuzzing import fuzz
from utils.errors import ReIDError
from utils.images import Reading, read_image

COLOURS = pixels(0, 6, 9)
DEEP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) + np.arange(16, dtype=np.uint16)  # 16-bit grey
DEEP_IN_8_BITS = np.rint(DEEP.astype(float) / 257).astype(np.uint8)


def read(path, **options):
    return np.asarray(read_image(path, Reading(**options)))


def unreadable(paths, workers=1, **options):
    """Why the check before training refuses some of ``paths``."""
    seen = look_over(paths, workers, partial(examine, reading=Reading(**options)))
    return {path: found.unreadable for path, found in seen.items() if found.unreadable}


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_lossless_colours_come_out_as_they_went_in(tmp_path, suffix):
    assert np.array_equal(read(save(tmp_path / f"x{suffix}", COLOURS)), COLOURS)


def test_grey_is_repeated_and_alpha_dropped(tmp_path):
    grey, alpha = COLOURS[..., 0], COLOURS[..., 1]
    repeated = np.stack([grey] * 3, -1)
    assert np.array_equal(read(save(tmp_path / "l.png", grey)), repeated)
    assert np.array_equal(read(save(tmp_path / "la.png", np.stack([grey, alpha], -1))), repeated)
    assert np.array_equal(read(save(tmp_path / "rgba.png", np.dstack([COLOURS, alpha]))), COLOURS)
    assert np.array_equal(read(save(tmp_path / "1.png", grey > 99)), 255 * np.stack([grey > 99] * 3, -1))


@pytest.mark.parametrize("transparency", [bytes([0, 128, 255]), 2])
def test_palette_with_transparency(tmp_path, transparency):
    image = Image.fromarray(COLOURS).quantize(16)
    path = save(tmp_path / "p.png", image, transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(path)
    palette = np.array(image.getpalette()).reshape(-1, 3)
    assert np.array_equal(found, palette[np.asarray(image)])


def test_cmyk_jpeg(tmp_path):
    ink = np.zeros((16, 16, 4), np.uint8) + np.array([200, 40, 0, 30], np.uint8)
    found = read(save(tmp_path / "x.jpg", Image.fromarray(ink, "CMYK"), quality=100))
    light = 255 - ink.astype(float)
    assert np.abs(found - light[..., :3] * light[..., 3:] / 255).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_not_cut_off(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", DEEP)
    with Image.open(path) as stored:
        assert stored.mode in ("I;16", "I")  # Pillow before 10.3 widens PNGs
    assert np.array_equal(read(path), np.stack([DEEP_IN_8_BITS] * 3, -1))


def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path):
    assert (read(save(tmp_path / "x.png", np.full((4, 4), 250, np.uint16))) == 1).all()


def test_sixteen_bits_in_the_other_byte_order(tmp_path):
    header = b"MM\x00*\x00\x00\x00\x08"
    entries = [(256, 16), (257, 16), (258, 16), (259, 1), (262, 1), (273, 8 + 2 + 8 * 12 + 4), (277, 1), (278, 16)]
    tags = b"".join(t.to_bytes(2) + (3).to_bytes(2) + (1).to_bytes(4) + v.to_bytes(2) + bytes(2) for t, v in entries)
    (tmp_path / "x.tif").write_bytes(header + len(entries).to_bytes(2) + tags + bytes(4) + DEEP.astype(">u2").tobytes())
    assert np.array_equal(read(tmp_path / "x.tif")[..., 1], DEEP_IN_8_BITS)


SMALL = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize(
    ("values", "white", "stated"),
    [
        (np.arange(256, dtype=np.int32).reshape(16, 16), 255, None),
        (DEEP.astype(np.int32), 65535, None),
        (DEEP // 16, 4095, 65535),
        (SMALL.astype(np.float32), 1, 1),
        ((1.2 * SMALL).astype(np.float32), 1, 1),  # resampling overshoots: white stays where it is
        ((200 * SMALL).astype(np.float32), 255, None),
        ((1e7 * SMALL).astype(np.float32), 1e7, None),
        (np.zeros((16, 16), np.float32), 1, 1),
    ],
)
def test_white_is_stated_by_the_format_or_by_the_user_never_by_the_pixels(tmp_path, values, white, stated):
    path = save(tmp_path / "x.tif", values)
    exact = (255 * values.astype(float) / white).clip(0, 255)
    assert np.abs(read(path, white=white) - exact[..., None]).max() <= 0.5 + 1e-3
    if stated is None:
        assert "INPUT.WHITE" in message(read_image, path) and f"is {values.max():g};" in message(read_image, path)
        found = examine(path)
        assert found.unknown_white and found.peak == values.max()
    else:
        assert np.abs(read(path) - (255 * values.astype(float) / stated).clip(0, 255)[..., None]).max() <= 0.5 + 1e-3


def test_equal_values_are_equally_bright_in_every_file_of_a_set(tmp_path):
    """28 % of a set of floats came out black where one pixel of each overshot 1."""
    dark, over = (np.full((4, 4), 0.5, np.float32) for _ in range(2))
    over[0, 0] = 1.01
    paths = [save(tmp_path / f"{i}.tif", values) for i, values in enumerate((dark, over))]
    assert [read(path)[3, 3, 0] for path in paths] == [128, 128]


def strip_of(values, bits=16, photometric=1):
    """A grey TIFF of one strip; ``values`` are its bytes or an array of them."""
    data = values if isinstance(values, bytes) else values.tobytes()
    rows, columns = (16, 16) if isinstance(values, bytes) else values.shape
    tags = [(256, columns), (257, rows), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, rows)]
    tags += [(279, len(data))]
    entries = b"".join(t.to_bytes(2, "little") + b"\3\0\1\0\0\0" + v.to_bytes(4, "little") for t, v in tags)
    return (
        b"II*\0" + (8 + len(data)).to_bytes(4, "little") + data + len(tags).to_bytes(2, "little") + entries + bytes(4)
    )


def test_sixteen_bits_in_which_0_is_white(tmp_path):
    (tmp_path / "x.tif").write_bytes(strip_of(65535 - DEEP, photometric=0))
    assert np.array_equal(read(tmp_path / "x.tif")[..., 0], DEEP_IN_8_BITS)
    (tmp_path / "x.tif").write_bytes(strip_of(4095 - DEEP // 16, photometric=0))
    found = read(tmp_path / "x.tif", white=4095)[..., 0]
    assert np.abs(found - 255.0 * (DEEP // 16) / 4095).max() <= 0.5 + 1e-3


def test_twelve_bits_that_a_tiff_states_and_a_pgm_s_largest_value(tmp_path):
    (tmp_path / "x.tif").write_bytes(strip_of(b"\x80\x0f\xff" * 128, bits=12))  # 2048, 4095
    assert read(tmp_path / "x.tif")[0, :2, 0].tolist() == [128, 255]
    twelve = DEEP // 16
    for white in (None, 4095):
        (tmp_path / "x.pgm").write_bytes(b"P5 16 16 4095\n" + twelve.astype(">u2").tobytes())
        assert np.abs(read(tmp_path / "x.pgm", white=white)[..., 0] - 255.0 * twelve / 4095).max() <= 0.5 + 1e-3
    (tmp_path / "x.pgm").write_bytes(b"P5 16 16 65535\n" + twelve.astype(">u2").tobytes())
    assert np.abs(read(tmp_path / "x.pgm", white=4095)[..., 0] - 255.0 * twelve / 4095).max() <= 0.5 + 1e-3
    assert examine(str(tmp_path / "x.pgm")).peak == twelve.max()


def test_white_leaves_eight_bits_alone_and_refuses_colours_that_are_cut_to_eight(tmp_path):
    assert np.array_equal(read(save(tmp_path / "x.png", COLOURS), white=4095), COLOURS)
    (tmp_path / "x.ppm").write_bytes(b"P6 1 1 65535\n" + bytes(6))
    assert read(tmp_path / "x.ppm").shape == (1, 1, 3)
    assert "INPUT.WHITE is 4095" in message(read_image, tmp_path / "x.ppm", Reading(white=4095))


def test_nan_and_negative_values_are_black(tmp_path):
    values = np.array([[np.nan, -3, np.inf, 0.2, 1]], np.float32)
    assert read(save(tmp_path / "x.tif", values))[0, :, 0].tolist() == [0, 0, 0, 51, 255]


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = save(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:], duration=50)
    assert (read(path) == [255, 0, 0]).all()


def test_one_pixel(tmp_path):
    path = save(tmp_path / "x.png", COLOURS[:1, :1])
    assert np.array_equal(read(path), COLOURS[:1, :1])
    assert plain_transform([8, 8], [0.5] * 3, [0.5] * 3)(read_image(path)).shape == (3, 8, 8)


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 do not exist and mean nothing
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_orientation_is_honoured_on_request(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x{suffix}", COLOURS, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    lying = COLOURS
    if suffix == ".jpg":
        with Image.open(path) as stored:
            lying = np.asarray(stored)
    marked = Image.fromarray(lying)
    marked.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(marked))
    assert np.array_equal(read(path, upright=True), upright)
    assert np.array_equal(read(path), lying)
    for turn, pixels_ in ((True, upright), (False, lying)):
        found = fingerprint(path, Reading(upright=turn))
        assert (found.height, found.width) == pixels_.shape[:2]
    if orientation == 6:  # the camera was turned: the stored left edge, from below, is the picture's upper one
        assert np.array_equal(upright[0], lying[::-1, 0])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_a_broken_exif_block_leaves_the_picture_as_it_is_stored(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", COLOURS, exif=b"Exif\0\0no header of a TIFF")
    assert read(path, upright=True).shape == COLOURS.shape and not unreadable([path], upright=True)
    assert examine(path, Reading(upright=True)).broken_exif == (suffix != ".jpg")  # Pillow drops it from a JPEG


def test_several_pages_are_noted_and_the_first_is_read(tmp_path):
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    for name in ("x.tif", "x.gif", "x.png", "x.webp", "x.mpo"):
        path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        assert examine(path).pages == (name != "x.mpo")  # the second picture of a photograph is its depth or preview
    assert np.array_equal(read(tmp_path / "x.tif"), COLOURS)
    assert not examine(save(tmp_path / "one.tif", COLOURS)).pages


def test_a_box_is_cut_from_the_picture_as_it_is_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.png", COLOURS, exif=exif)
    assert np.array_equal(read(path, boxes={path: (2, 1, 3, 4)}), COLOURS[1:5, 2:5])
    turned = np.rot90(COLOURS, -1)
    assert np.array_equal(read(path, upright=True, boxes={path: (2, 1, 3, 4)}), turned[1:5, 2:5])
    assert "reaches beyond its 9x6 pixels" in message(read_image, path, Reading(boxes={path: (5, 0, 5, 2)}))
    large = save(tmp_path / "x.jpg", pixels(0, 400, 300))
    box = Reading(boxes={large: (10, 20, 200, 300)})
    assert read_image(large, box, at_least=16).size == (200, 300)


def damaged(folder, kind):
    """A file that is no readable image; its path."""
    path = folder / f"{kind}.jpg"
    whole = io.BytesIO()
    Image.fromarray(pixels(1, 64, 64)).save(whole, "JPEG")
    if kind == "text":
        path.write_text("not a photo")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(whole.getvalue()[:-200])
    elif kind == "header only":
        path.write_bytes(whole.getvalue()[:100])
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    return str(path)


DAMAGES = {
    "text": "not an image",
    "empty": "empty",
    "truncated": "truncated",
    "header only": "",
    "missing": "no such file",
    "folder": "no such file",
    "pipe": "no such file",
    "loop": "no such file",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_cannot_be_read_is_named_with_its_cause(tmp_path, kind):
    path = damaged(tmp_path, kind)
    text = message(read_image, path)
    assert DAMAGES[kind] in text and "DATASETS.BAD_IMAGES" in text
    assert text.count(path) == 1 and text.startswith(path)
    reasons = unreadable([path])
    assert list(reasons) == [path] and DAMAGES[kind] in reasons[path]


def test_a_decompression_bomb_is_refused_before_it_explodes(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", np.zeros((40, 40), np.uint8))
    assert unreadable([path]) == {}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    assert "megapixels; save it smaller" in message(read_image, path)
    assert "megapixels; save it smaller" in unreadable([path])[path]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # large, but not twice as large: Pillow only warns
    assert unreadable([path]) == {}


def test_pillow_s_warnings_do_not_reach_the_terminal(tmp_path):
    """In a process of its own: pytest has filters of its own."""
    path = save(tmp_path / "large.png", np.zeros((40, 40), np.uint8))
    code = "from PIL import Image; Image.MAX_IMAGE_PIXELS = 1000\nfrom utils.images import read_image\n"
    code += f"read_image({path!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_file_is_checked_once_and_reported_in_order(tmp_path):
    good = save(tmp_path / "good.png", COLOURS)
    bad = [damaged(tmp_path, kind) for kind in ("truncated", "text", "empty")]
    before = list(warnings.filters)
    found = unreadable([bad[2], good, bad[0], bad[2], good, bad[1]], workers=4)
    assert list(found) == [bad[2], bad[0], bad[1]]
    assert warnings.filters == before


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_short_is_found_although_the_check_decodes_it_small(tmp_path, progressive, mode):
    whole = io.BytesIO()
    Image.fromarray(pixels(2, 120, 90)).convert(mode).save(whole, "JPEG", progressive=progressive)
    size = len(whole.getvalue())
    paths = []
    for kept in (size // 10, size // 2, size - 400, size - 40, size - 4):
        paths.append(str(tmp_path / f"{kept}.jpg"))
        (tmp_path / f"{kept}.jpg").write_bytes(whole.getvalue()[:kept])
    assert list(unreadable(paths, 2)) == paths
    for path in paths:
        message(read_image, path)


def encoded(kind, **options):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Acme"
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}), **options)
    return file.getvalue()


@fuzz(300)
@given(
    st.sampled_from([encoded(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM")]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 10_000),
)
def test_damaged_files_give_a_picture_or_the_projects_error(tmp_path_factory, data, changes, kept):
    data = bytearray(data)
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data[:kept] if kept < 400 else data)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
        warnings.simplefilter("ignore")
        try:
            assert read_image(path, Reading(upright=True)).mode == "RGB"
            readable = True
        except ReIDError:
            readable = False
        assert bool(unreadable([str(path)], upright=True)) != readable


# ------------------------------------------------------------------------------------------------ the dataset
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
AUGMENTED = train_transform([16, 16], MEAN, STD, padding=3)


@pytest.fixture
def records(tmp_path):
    return [Record(save(tmp_path / f"{i}.png", pixels(i)), 10 + i, 20 + i, 30 + i) for i in range(3)]


def test_an_item_is_the_picture_and_its_record(records):
    data = ImageDataset(records, plain_transform([16, 16], MEAN, STD))
    assert len(data) == 3
    for index in range(3):
        image, *rest = data[index].values()
        assert rest == [10 + index, 20 + index, 30 + index, index]
        expected = (pixels(index).transpose(2, 0, 1) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
        assert np.abs(image.to("cpu")[0].numpy() - expected).max() < 1e-5


def test_exif_reaches_the_items(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    record = Record(save(tmp_path / "x.png", pixels(0), exif=exif), 0, 0, 0)
    transform = plain_transform([16, 16], MEAN, STD)
    lying, upright = (
        ImageDataset([record], transform, partial(read_image, reading=Reading(upright=on)))[0]["images"].to("cpu")[0]
        for on in (False, True)
    )
    assert torch.equal(upright, lying.flip(1, 2))


def test_a_draw_depends_on_its_seed_alone(records):
    data = ImageDataset(records, AUGMENTED)

    def image(index, seed):
        return data[SeededIndex(index, seed)]["images"].to("cpu")[0]

    first = image(1, 77)
    torch.manual_seed(5)
    random.seed(5)
    image(0, 3)
    assert torch.equal(image(1, 77), first)
    assert len({image(1, seed).numpy().tobytes() for seed in range(20)}) == 20
    random.seed(77)
    torch.manual_seed(77)
    assert torch.equal(AUGMENTED(read_image(records[1].path)), first)


def _fails(image):
    torch.rand(3)
    random.random()
    raise RuntimeError


FAILING = transforms.Compose([_fails, *plain_transform([16, 16], MEAN, STD).transforms])


@pytest.mark.parametrize("transform", [AUGMENTED, FAILING])
def test_a_draw_leaves_all_global_random_numbers_alone(records, transform, monkeypatch):
    def forbidden(seed):
        raise AssertionError("torch.manual_seed also seeds the GPUs")

    monkeypatch.setattr(torch, "manual_seed", forbidden)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    try:
        ImageDataset(records, transform)[SeededIndex(2, 9)]
    except RuntimeError:
        assert transform is FAILING
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before

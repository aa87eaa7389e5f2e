"""Every kind of image file, the check that finds the broken ones, and items that depend on their draw alone."""

import io
import os
import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from datasets.bases import Record
from datasets.images import ImageDataset, find_unreadable, read_image
from datasets.preprocessing import test_transform as plain_transform
from datasets.preprocessing import train_transform
from datasets.sampler import SeededIndex
from tests.datasets.hand_trees import message
from tests.datasets.pictures import pixels, save
from tests.fuzzing import fuzz
from utils.errors import ReIDError

COLOURS = pixels(0, 6, 9)
DEEP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) + np.arange(16, dtype=np.uint16)  # 16-bit grey
DEEP_IN_8_BITS = np.rint(DEEP.astype(float) / 257).astype(np.uint8)


def read(path, **options):
    return np.asarray(read_image(path, **options))


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
        assert stored.mode == "I;16"
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
    ("values", "white"),
    [
        (np.arange(256, dtype=np.int32).reshape(16, 16), 255),
        (DEEP.astype(np.int32), 65535),
        (100 * DEEP.astype(np.int32), 100 * int(DEEP.max())),
        (SMALL.astype(np.float32), 1),
        ((200 * SMALL).astype(np.float32), 255),
        ((60000 * SMALL).astype(np.float32), 65535),
        ((1e7 * SMALL).astype(np.float32), 1e7),
        (np.zeros((16, 16), np.float32), 1),
    ],
)
def test_integers_and_floats_have_the_documented_white(tmp_path, values, white):
    found = read(save(tmp_path / "x.tif", values))
    exact = 255 * values.astype(float) / white
    assert np.abs(found - exact[..., None]).max() <= 0.5 + 1e-3


def test_no_numbers_and_negative_ones_are_black(tmp_path):
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
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_exif_orientation_is_honoured_on_request(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x{suffix}", COLOURS, exif=exif)
    with Image.open(path) as stored:
        upright, lying = np.asarray(ImageOps.exif_transpose(stored)), np.asarray(stored)
    assert np.array_equal(read(path, exif=True), upright)
    assert np.array_equal(read(path), lying)
    if orientation == 6:  # the camera was turned: the stored left edge, from below, is the picture's upper one
        assert np.array_equal(upright[0], lying[::-1, 0])


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
    reasons = find_unreadable([path], workers=1)
    assert list(reasons) == [path] and DAMAGES[kind] in reasons[path]


def test_a_decompression_bomb_is_refused_before_it_explodes(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", np.zeros((40, 40), np.uint8))
    assert find_unreadable([path], 1) == {}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    assert "decompression bomb" in message(read_image, path)
    assert "decompression bomb" in find_unreadable([path], 1)[path]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # large, but not twice as large: Pillow only warns
    assert find_unreadable([path], 1) == {}


def test_every_file_is_checked_once_and_reported_in_order(tmp_path):
    good = save(tmp_path / "good.png", COLOURS)
    bad = [damaged(tmp_path, kind) for kind in ("truncated", "text", "empty")]
    before = list(warnings.filters)
    found = find_unreadable([bad[2], good, bad[0], bad[2], good, bad[1]], workers=4)
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
    assert list(find_unreadable(paths, 2)) == paths
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
            assert read_image(path, exif=True).mode == "RGB"
            readable = True
        except ReIDError:
            readable = False
        assert bool(find_unreadable([str(path)], 1, exif=True)) != readable


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
        image, *rest = data[index]
        assert rest == [10 + index, 20 + index, 30 + index, index]
        expected = (pixels(index).transpose(2, 0, 1) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
        assert np.abs(image.numpy() - expected).max() < 1e-5


def test_exif_reaches_the_items(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    record = Record(save(tmp_path / "x.png", pixels(0), exif=exif), 0, 0, 0)
    transform = plain_transform([16, 16], MEAN, STD)
    lying, upright = (ImageDataset([record], transform, exif=on)[0][0] for on in (False, True))
    assert torch.equal(upright, lying.flip(1, 2))


def test_a_draw_depends_on_its_seed_alone(records):
    data = ImageDataset(records, AUGMENTED)
    first = data[SeededIndex(1, 77)][0]
    torch.manual_seed(5)
    random.seed(5)
    data[SeededIndex(0, 3)]
    assert torch.equal(data[SeededIndex(1, 77)][0], first)
    assert len({data[SeededIndex(1, seed)][0].numpy().tobytes() for seed in range(20)}) == 20
    random.seed(77)
    torch.manual_seed(77)
    assert torch.equal(AUGMENTED(read_image(records[1].path)), first)


def _fails(image):
    torch.rand(3)
    random.random()
    raise RuntimeError


@pytest.mark.parametrize("transform", [AUGMENTED, _fails])
def test_a_draw_leaves_all_global_random_numbers_alone(records, transform, monkeypatch):
    def forbidden(seed):
        raise AssertionError("torch.manual_seed also seeds the GPUs")

    monkeypatch.setattr(torch, "manual_seed", forbidden)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    try:
        ImageDataset(records, transform)[SeededIndex(2, 9)]
    except RuntimeError:
        assert transform is _fails
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before

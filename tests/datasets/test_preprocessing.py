"""Each step of the transforms against a plain computation in numpy."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms

from datasets.bases import Record
from datasets.preprocessing import fitting, train_transform
from datasets.preprocessing import test_transform as plain_transform
from datasets.reading.images import ImageDataset
from datasets.sampler import SeededIndex
from tests.datasets.pictures import pixels

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
HEIGHT, WIDTH = 12, 20
COLOURS = pixels(0, HEIGHT, WIDTH)
FILTERS = {
    "bilinear": (1, lambda x: 1 - x),
    "bicubic": (2, lambda x: np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)),
}
"""Support and kernel at |x| of Pillow's filters; bicubic is Keys' with a = -1/2."""


def normalised(array):
    return (np.asarray(array, float).transpose(2, 0, 1) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        STD, (3, 1, 1)
    )


def resampled(array, length, kind):
    """Rows of ``array`` resampled to ``length``, the kernel widened where the picture shrinks."""
    support, kernel = FILTERS[kind]
    scale = len(array) / length
    wide = max(scale, 1.0)
    rows = []
    for i in range(length):
        distance = np.abs(np.arange(len(array)) + 0.5 - (i + 0.5) * scale) / wide
        weights = np.where(distance < support, kernel(distance), 0)
        rows.append(np.tensordot(weights / weights.sum(), array, 1))
    return np.clip(np.rint(np.stack(rows)), 0, 255)


def drawn(transform, seed, array=COLOURS):
    torch.manual_seed(seed)
    random.seed(seed)
    return transform(Image.fromarray(array)).numpy()


def train(size=(HEIGHT, WIDTH), **changes):
    return train_transform(size, MEAN, STD, **({"flip": 0.0, "padding": 0, "erasing": 0.0} | changes))


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("size", [(5, 7), (30, 50), (HEIGHT, 8)])
def test_resize(kind, size):
    across = resampled(COLOURS.astype(float).transpose(1, 0, 2), size[1], kind).transpose(1, 0, 2)
    expected = normalised(resampled(across, size[0], kind))
    one_level = 1.01 / 255 / np.reshape(STD, (3, 1, 1))
    for found in (
        plain_transform(size, MEAN, STD, interpolation=kind)(Image.fromarray(COLOURS)).numpy(),
        drawn(train(size, interpolation=kind), 0),
    ):
        assert found.shape == (3, *size) and found.dtype == np.float32
        assert (np.abs(found - expected) < one_level).all()
        assert (np.abs(found - expected) < 1e-4).mean() > 0.75  # the others are ties between two levels


def test_bicubic_for_training_and_bilinear_otherwise():
    image = Image.fromarray(COLOURS)
    bilinear, bicubic = (
        normalised(np.asarray(image.resize((7, 5), f))) for f in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    )
    assert np.abs(plain_transform((5, 7), MEAN, STD)(image).numpy() - bilinear).max() < 1e-5
    assert np.abs(drawn(train((5, 7)), 0) - bicubic).max() < 1e-5
    assert np.abs(bilinear - bicubic).max() > 0.1


def test_nothing_random_is_left_when_all_is_off():
    assert np.abs(drawn(train(), 1) - normalised(COLOURS)).max() < 1e-5
    assert np.array_equal(drawn(train(), 1), drawn(train(), 2))


def test_flip_mirrors_left_and_right_with_its_probability():
    mirrored = normalised(COLOURS[:, ::-1])
    assert np.abs(drawn(train(flip=1.0), 0) - mirrored).max() < 1e-5
    flips = [np.abs(drawn(train(flip=0.25), seed) - mirrored).max() < 1e-5 for seed in range(400)]
    assert abs(np.mean(flips) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)


def test_pad_and_crop_shift_over_a_black_border_evenly():
    padding = 2
    padded = np.pad(COLOURS, ((padding, padding), (padding, padding), (0, 0)))
    windows = {
        (top, left): normalised(padded[top : top + HEIGHT, left : left + WIDTH])
        for top in range(5)
        for left in range(5)
    }
    counts = dict.fromkeys(windows, 0)
    transform = train(padding=padding)
    for seed in range(500):
        found = drawn(transform, seed)
        (shift,) = [s for s, window in windows.items() if np.abs(found - window).max() < 1e-5]
        counts[shift] += 1
    # chi-square with 24 degrees of freedom: above 52 once in a thousand such tests, and the seeds are fixed
    assert sum((count - 20) ** 2 / 20 for count in counts.values()) < 52


def erased(seed, size=(HEIGHT, WIDTH), **changes):
    """The picture, the same draw without erasing, and the mask of what differs [H, W]."""
    array = pixels(1, *size)
    with_noise = drawn(train(size, flip=0.5, padding=2, **changes), seed, array)
    without = drawn(train(size, flip=0.5, padding=2, erasing=0.0), seed, array)
    return with_noise, without, (with_noise != without).any(0)


def test_erasing_fills_one_rectangle_of_the_published_sizes_with_noise():
    noise, areas = [], []
    size = (60, 40)
    for seed in range(60):
        found, untouched, mask = erased(seed, size, erasing=1.0)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width  # a full rectangle, and nothing besides
        assert np.array_equal(found[:, ~mask], untouched[:, ~mask])
        areas.append(height * width / mask.size)
        assert 0.3 * 0.8 < height / width < 1 / 0.3 / 0.8  # rounded to pixels
        noise.append(found[:, mask].ravel())
    assert 0.02 * 0.8 < min(areas) < 0.08 and 0.25 < max(areas) < 1 / 3 * 1.1
    noise = np.concatenate(noise)
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size) and abs(noise.std() - 1) < 0.02
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02  # each value of its own


def test_erasing_happens_with_its_probability():
    happened = [erased(seed, erasing=0.3)[2].any() for seed in range(400)]
    assert abs(np.mean(happened) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 400)


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="sharp"):
        plain_transform((4, 4), MEAN, STD, interpolation="sharp")


def test_a_larger_picture_is_cut_at_random():
    """Resized to 16 x 24 in front of a crop of 10 x 12 (CLIP-HandID's 256 before 224)."""
    transform = train_transform((10, 12), MEAN, STD, resize=(16, 24), flip=0.0, padding=0, erasing=0.0)
    whole = plain_transform((16, 24), MEAN, STD, interpolation="bicubic")(Image.fromarray(COLOURS))
    places = set()
    for seed in range(40):
        found = drawn(transform, seed)
        (place,) = [
            (top, left)
            for top in range(16 - 10 + 1)
            for left in range(24 - 12 + 1)
            if np.array_equal(found, whole[:, top : top + 10, left : left + 12])
        ]
        places.add(place)
    assert len(places) > 20


def varied(**options):
    """Twenty draws of one picture, [20, 3, H, W] in [0, 1]."""
    off = {"flip": 0.0, "padding": 0, "erasing": 0.0} | options
    transform = train_transform([HEIGHT, WIDTH], [0, 0, 0], [1, 1, 1], **off)
    torch.manual_seed(0)
    return torch.stack([transform(Image.fromarray(COLOURS)) for _ in range(20)]).numpy()


def test_rotation_keeps_the_centre_and_turns_by_the_angle():
    marked = np.zeros((41, 41, 3), np.uint8)
    marked[18:23, 18:23], marked[18:23, 36:41] = 255, 255
    transform = train_transform([41, 41], [0, 0, 0], [1, 1, 1], rotation=30, flip=0, padding=0, erasing=0)
    torch.manual_seed(0)
    angles = []
    for _ in range(200):
        found = transform(Image.fromarray(marked))[0].numpy()
        assert found[20, 20] > 0.99
        found[10:31, 10:31] = 0
        rows, columns = np.mgrid[:41, :41]
        y, x = (found * (20 - rows)).sum() / found.sum(), (found * (columns - 20)).sum() / found.sum()
        angles.append(np.degrees(np.arctan2(y, x)))
    assert -31 < min(angles) < -25 and 25 < max(angles) < 31 and abs(np.mean(angles)) < 3


def test_colours_change_by_no_more_than_the_configured_share():
    """A grey picture has neither contrast nor saturation to change: what is left is a factor from 0.8 to 1.2."""
    transform = train_transform([4, 4], [0, 0, 0], [1, 1, 1], jitter=0.2, flip=0, padding=0, erasing=0)
    torch.manual_seed(0)
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    found = np.array([transform(grey).numpy() * 255 for _ in range(300)])
    assert np.ptp(found, axis=(1, 2, 3)).max() < 1e-4, "every place alike"
    shares = found[:, 0, 0, 0] / 100
    assert 0.79 < shares.min() < 0.82 and 1.18 < shares.max() < 1.21
    assert np.ptp(varied(jitter=0.2), axis=0).max() > 0.1 and not np.ptp(varied(), axis=0).any()


@pytest.mark.parametrize("shape", [(64, 90), (91, 64), (50, 50), (33, 47), (224, 301)])
@pytest.mark.parametrize("side", [32, 224])
def test_cropping_is_clips_own_preprocessing(shape, side):
    """Resize of the shorter side and a centre crop, as OpenAI's code states them."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    theirs = transforms.Compose(
        [
            transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    ours = plain_transform((side, side), MEAN, STD, interpolation="bicubic", fit="crop")
    assert torch.equal(ours(picture), theirs(picture))
    cropped = fitting((side, side), "bicubic", "crop")(picture)
    assert torch.equal(ours(cropped), ours(picture)), "a cropped picture from the cache stays as it is"


@pytest.mark.parametrize(
    ("shape", "kept"), [((20, 40), (0, 10, 20, 30)), ((80, 10), (30, 0, 50, 10)), ((9, 9), (0, 0, 9, 9))]
)
def test_cropping_keeps_the_middle_of_the_longer_side(shape, kept):
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])).astype(np.uint8)[..., None].repeat(3, 2)
    found = fitting((kept[2] - kept[0], kept[3] - kept[1]), "bilinear", "crop")(Image.fromarray(ramp))
    assert np.array_equal(np.asarray(found), ramp[kept[0] : kept[2], kept[1] : kept[3]])


def boxed(array, size):
    """The longer side becomes that of the square, the other one is rounded; the middle of black, pixel by pixel."""
    height, width = array.shape[:2]
    share = size / max(height, width)
    rows, columns = round(height * share), round(width * share)
    small = np.asarray(Image.fromarray(array).resize((columns, rows), Image.Resampling.BILINEAR))
    found = np.zeros((size, size, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            found[(size - rows) // 2 + row, (size - columns) // 2 + column] = small[row, column]
    return found


@pytest.mark.parametrize("shape", [(20, 33), (47, 20), (90, 64), (30, 30), (3, 150), (5, 7)])
def test_a_letterbox_keeps_the_shape_of_a_picture(shape):
    picture = pixels(3, *shape)
    expected, image = boxed(picture, 32), Image.fromarray(picture)
    found = plain_transform((32, 32), MEAN, STD, fit="letterbox")(image)
    assert np.abs(found.numpy() - normalised(expected)).max() < 1e-5
    trained = drawn(train((32, 32), interpolation="bilinear", fit="letterbox"), 0, picture)
    assert np.abs(trained - found.numpy()).max() < 1e-5
    fit = fitting((32, 32), "bilinear", "letterbox")
    assert np.array_equal(fit(image), expected) and np.array_equal(fit(fit(image)), expected), "as one from the cache"


def test_a_letterbox_that_is_no_square():
    """Of a size of 40 x 20 a picture twice as high as wide fills all, a wider one loses height."""
    fit = fitting((40, 20), "bilinear", "letterbox")
    assert np.asarray(fit(Image.new("RGB", (30, 60), "white"))).all()
    wide = np.asarray(fit(Image.new("RGB", (60, 30), "white")))
    assert wide[15:25].all() and not wide[:15].any() and not wide[25:].any()


def test_translation_resizes_or_cuts_a_window_out_of_a_picture_of_nine_eighths():
    size = (16, 24)
    plain = plain_transform(size, MEAN, STD, interpolation="bicubic")(Image.fromarray(COLOURS)).numpy()
    larger = plain_transform((18, 27), MEAN, STD, interpolation="bicubic")(Image.fromarray(COLOURS)).numpy()
    windows = {(top, left): larger[:, top : top + 16, left : left + 24] for top in range(3) for left in range(4)}
    places, whole = set(), 0
    for seed in range(200):
        found = drawn(train(size, translation=0.25), seed)
        if np.array_equal(found, plain):
            whole += 1
        else:
            (place,) = [place for place, window in windows.items() if np.array_equal(found, window)]
            places.add(place)
    assert places == windows.keys()
    assert abs(whole / 200 - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 200)


@pytest.mark.parametrize("value", ["mean", [0.5, -1.0, 2.0]])
def test_erasing_fills_the_published_rectangles_with_one_value_a_channel(value):
    size = (60, 40)
    shares = []
    for seed in range(40):
        found, untouched, mask = erased(seed, size, erasing=1.0, erasing_area=0.4, erasing_value=value)
        noise = erased(seed, size, erasing=1.0, erasing_area=0.4)[2]
        assert np.array_equal(mask, noise), "the rectangle is that of the noise"
        expected = untouched.mean((1, 2)) if value == "mean" else value
        assert np.abs(found[:, mask] - np.reshape(expected, (3, 1))).max() < 1e-5
        assert np.array_equal(found[:, ~mask], untouched[:, ~mask])
        shares.append(mask.mean())
    assert 1 / 3 * 1.1 < max(shares) < 0.4 * 1.1


def test_cutout_is_a_square_of_zeros_anywhere():
    places = set()
    for seed in range(300):
        found = drawn(train(cutout=0.5, cutout_side=5), seed)
        zero = (found == 0).all(0)
        if zero.any():
            (rows, columns) = np.nonzero(zero)
            assert zero.sum() == 25 and np.ptp(rows) == np.ptp(columns) == 4
            places.add((rows[0], columns[0]))
            assert np.abs(found - normalised(COLOURS))[:, ~zero].max() < 1e-5
        else:
            places.add(None)
    assert len(places) > 60 and max(top for top, _ in places - {None}) == HEIGHT - 5


def test_colours_change_in_front_of_the_resize_or_behind_it():
    """The contrast of a picture is around its own mean, which a resize by nearest neighbours changes."""
    first, last = (
        drawn(train((3, 4), interpolation="nearest", jitter=0.5, jitter_first=order), 3) for order in (True, False)
    )
    torch.manual_seed(3)
    expected = transforms.ColorJitter(0.5, 0.5, 0.5)(Image.fromarray(COLOURS)).resize((4, 3), Image.Resampling.NEAREST)
    assert np.abs(first - normalised(expected)).max() < 1e-5
    assert np.abs(first - last).max() > 0.01


def share(transform, unlike, count=400):
    """How often a draw differs from ``unlike``."""
    return np.mean([not np.allclose(drawn(transform, seed), unlike, atol=1e-5) for seed in range(count)])


def test_grey_pictures_are_the_luma_of_pillow_with_the_given_probability():
    luma = np.asarray(Image.fromarray(COLOURS).convert("L"))[..., None].repeat(3, 2)
    assert np.abs(drawn(train(grey=1.0), 0) - normalised(luma)).max() < 1e-5
    assert abs(share(train(grey=0.1), normalised(COLOURS)) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 400)


def test_each_change_of_colours_has_its_range_and_all_have_one_probability():
    changed = share(train(jitter=(0.15, 0.1, 0.05, 0.05), jitter_probability=0.1), normalised(COLOURS))
    assert 0 < changed < 0.1 + 4 * np.sqrt(0.1 * 0.9 / 400)
    assert share(train(jitter=0.3, jitter_probability=0.0), normalised(COLOURS), 5) == 0
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    hue, light = (
        train_transform([4, 4], [0] * 3, [1] * 3, jitter=ranges, flip=0, padding=0, erasing=0)
        for ranges in ((0, 0, 0, 0.25), (0.5, 0, 0, 0))
    )
    torch.manual_seed(0)
    assert all(np.allclose(hue(grey) * 255, 100) for _ in range(20)), "grey has no hue"
    turned = np.stack([hue(Image.new("RGB", (4, 4), (200, 50, 50))).numpy()[:, 0, 0] for _ in range(100)])
    assert (turned.argmax(1) > 0).any() and np.allclose(turned.max(1), 200 / 255, atol=2 / 255)
    shares = [float(light(grey)[0, 0, 0]) * 2.55 for _ in range(300)]
    assert 0.5 - 0.01 <= min(shares) < 0.55 and 1.45 < max(shares) <= 1.51


def mixed(array):
    """AugMix after its paper (algorithm 1), by Pillow's operations, with the draws of torchvision."""
    height, width = array.shape[:2]
    tenth = [i / 9 for i in range(3)]  # severity 3 of 10

    def affine(picture, *rows):
        coefficients = (*rows, *((0, 0, 1, 0, 1, 0)[len(rows) :]))
        return picture.transform(picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)

    operations = [
        (True, lambda p, m: affine(p, 1, 0.3 * m)),
        (True, lambda p, m: affine(p, 1, 0, 0, 0.3 * m)),
        (True, lambda p, m: affine(p, 1, 0, -int(m * width / 3), 0, 1, 0)),
        (True, lambda p, m: affine(p, 1, 0, 0, 0, 1, -int(m * height / 3))),
        (True, lambda p, m: p.rotate(30 * m, Image.Resampling.BILINEAR)),
        (False, lambda p, m: ImageOps.posterize(p, round(4 - 4 * m))),
        (False, lambda p, m: ImageOps.solarize(p, 255 * (1 - m))),
        (None, lambda p, m: ImageOps.autocontrast(p)),
        (None, lambda p, m: ImageOps.equalize(p)),
    ]
    kept, rest = torch._sample_dirichlet(torch.ones(1, 2))[0].tolist()
    weights = torch._sample_dirichlet(torch.ones(1, 3))[0].tolist()
    total = kept * array.astype(float)
    for weight in weights:
        picture = Image.fromarray(array)
        for _ in range(int(torch.randint(1, 4, (1,)))):
            signed, change = operations[int(torch.randint(len(operations), (1,)))]
            size = 0.0 if signed is None else tenth[int(torch.randint(3, ()))]
            picture = change(picture, -size if signed and torch.randint(2, (1,)) else size)
        total += rest * weight * np.asarray(picture, float)
    return total


def test_augmix_is_that_of_its_paper():
    """Where the two libraries differ by a level, equalising and posterising make more of it: most draws agree."""
    smooth = np.asarray(Image.fromarray(pixels(5, 6, 6)).resize((48, 40), Image.Resampling.BICUBIC))
    transform = train_transform((40, 48), [0] * 3, [1] * 3, flip=0, padding=0, erasing=0, augmix=1.0)
    apart = []
    for seed in range(40):
        found = 255 * drawn(transform, seed, smooth).transpose(1, 2, 0)
        torch.manual_seed(seed)
        torch.rand(2)  # whether to flip, whether to mix
        apart.append(np.median(np.abs(found - mixed(smooth))))
    assert np.median(apart) < 0.6 and np.mean(np.array(apart) < 1.5) > 0.8  # levels; a mixture is rounded down
    assert abs(share(train(augmix=0.6), normalised(COLOURS), 150) - 0.6) < 4 * np.sqrt(0.6 * 0.4 / 150)


def test_an_image_is_augmented_by_its_seed_alone():
    options = {"grey": 0.5, "jitter": (0.2, 0.2, 0.2, 0.1), "jitter_probability": 0.5, "augmix": 0.6}
    transform = train_transform((HEIGHT, WIDTH), MEAN, STD, **options)
    images = ImageDataset([Record("a", 0, 0, 0)], transform, lambda _: Image.fromarray(COLOURS))
    seen = []
    for start in (1, 2):
        torch.manual_seed(start)
        seen.append([images[SeededIndex(0, seed)]["images"].to("cpu") for seed in range(10)])
    assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))
    assert len({picture.sum().item() for picture in seen[0]}) == 10

"""Upright hands by their key points: on drawn hands, whose true points are known, turned by any angle."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from configs import load_config
from datasets import make_dataloader, make_dataset
from datasets.fields.geometry import PointReader
from datasets.parsing.keypoints import KeyPointFile, KeyPoints, read_keypoints, write_keypoints
from datasets.reading.alignment import INDEX, LITTLE, MARGIN, MIDDLE, RING, WRIST, WindowsByName, downwards, window_of
from datasets.synthetic_hand.dataset import SyntheticHand
from processor import load_embedder
from processor.extract import extract
from processor.runs.run import Run, TrainingProgress, fingerprint
from tests.datasets.hand_trees import message
from tests.datasets.pictures import pixels, save
from utils.errors import ReIDError
from utils.images import Reading, read_image
from utils.windows import Target, frame_of, to_picture

SMALL = {"train_identities": 2, "test_identities": 3, "images_per_identity": 5, "size": 96}
ALIGN = ("rotate", "crop", "palm")
SIZE = (48, 40)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return SyntheticHand(tmp_path_factory.mktemp("drawn"), **SMALL)


@pytest.fixture(scope="module")
def known(drawn):
    return {f"{drawn.root}/{n}": p for n, p in read_keypoints(drawn.root / "keypoints.csv").images.items()}


def turned(found, angle, about=(48.0, 48.0)):
    """The points after the picture was turned clockwise by ``angle`` about a place."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return found._replace(points=(found.points - about) @ np.array([[cos, sin], [-sin, cos]]) + about)


def in_window(found, align, size=SIZE):
    """Where the points are in the result, in its pixels, by solving for them."""
    matrix = to_picture(frame_of(window_of(align, found, size), (0, 0, *found.size)), size)
    return np.linalg.solve(matrix[:, :2], (found.points - matrix[:, 2]).T).T


@pytest.mark.parametrize("angle", [0, 35, 90, -160.5])
def test_a_turned_hand_has_its_points_at_the_same_places(known, angle):
    for found in known.values():
        for align in ALIGN:
            upright, other = in_window(found, align), in_window(turned(found, angle), align)
            assert np.abs(upright - other).max() < 1e-6
            if align != "palm":
                assert other[WRIST, 0] == pytest.approx(other[MIDDLE, 0]) and other[WRIST, 1] > other[MIDDLE, 1]


def test_a_mirrored_hand_is_not_turned_into_the_other(known):
    for found in known.values():
        mirrored = found._replace(points=np.array([96, 0]) + found.points * [-1, 1])
        for align in ("crop", "palm"):
            assert np.abs(in_window(mirrored, align) - ([SIZE[1], 0] + in_window(found, align) * [-1, 1])).max() < 1e-6


def test_crop_is_the_box_with_its_margin_in_the_shape_of_the_input(known):
    for found in known.values():
        places = in_window(found, "crop")
        low, high = places.min(0), places.max(0)
        window = window_of("crop", found, SIZE)
        assert window.size[0] / window.size[1] == pytest.approx(SIZE[1] / SIZE[0])
        margins = np.array([low[0], low[1], SIZE[1] - high[0], SIZE[0] - high[1]])
        assert margins.min() == pytest.approx(MARGIN * (high - low).max()) and low == pytest.approx(SIZE[::-1] - high)


def test_palm_is_a_square_below_the_valleys(known):
    for found in known.values():
        places = in_window(found, "palm", (64, 64))
        first, second = places[[INDEX, MIDDLE]].mean(0), places[[RING, LITTLE]].mean(0)
        assert first[1] == pytest.approx(0, abs=1e-6) and second[1] == pytest.approx(0, abs=1e-6)
        assert (first[0] + second[0]) / 2 == pytest.approx(32) and abs(first[0] - second[0]) == pytest.approx(64 / 1.6)
        assert places[WRIST, 1] > 64 and (places[[8, 12, 16, 20], 1] < 0).all()


def test_the_true_points_lie_on_the_drawn_hand(drawn, known):
    """Fingers stand out from the table by their outline: a point of a finger has the colour of its neighbour's skin."""
    assert len(known) == 25 and {p.hand for p in known.values()} <= {"left", "right"}
    for path, found in known.items():
        assert found.size == (96, 96) and (found.points > 0).all() and (found.points < 96).all()
        middle = found.points[[MIDDLE, MIDDLE + 1, MIDDLE + 2, MIDDLE + 3]]
        lengths = np.hypot(*np.diff(middle, axis=0).T)
        assert (lengths > 4).all() and lengths[0] > lengths[2]
        assert abs(downwards(found.points)) < 25, "drawn hands stand almost upright"
        thumb_left = found.points[2, 0] < found.points[LITTLE, 0]
        dorsal = int(path[-7:-4]) % 2 == 0
        assert thumb_left == ((found.hand == "right") == dorsal)


@pytest.mark.parametrize("align", ALIGN)
@pytest.mark.parametrize("angle", [40, 180, -75])
def test_pictures_of_turned_hands_look_like_those_of_upright_ones(drawn, known, tmp_path, align, angle):
    """The table around is wide enough here that nothing is cut off."""
    path = drawn.query[0].path
    found = known[path]._replace(points=known[path].points * 2 + 60, size=(312, 312))
    large = Image.open(path).resize((192, 192), Image.Resampling.BICUBIC)
    plain = ImageOps.expand(large, 60, tuple(np.median(np.asarray(large)[0], 0).astype(int).tolist()))
    names = [str(tmp_path / f"{name}.png") for name in ("plain", "turned")]
    plain.save(names[0])
    plain.rotate(-angle, Image.Resampling.BICUBIC, fillcolor=plain.getpixel((0, 0))).save(names[1])
    points = {names[0]: found, names[1]: turned(found, angle, (156, 156))}
    reading = Reading(windows={name: window_of(align, points[name], (64, 64)) for name in names})
    upright, other = (
        np.asarray(read_image(name, reading, target=Target((64, 64), "bilinear")), float)[8:56, 8:56] for name in names
    )
    stored = np.asarray(read_image(names[1], target=Target((64, 64), "bilinear")).resize((64, 64)), float)[8:56, 8:56]
    assert np.abs(upright - other).mean() < 4 < np.abs(upright - stored).mean()


@pytest.mark.parametrize("lost", [WRIST, MIDDLE, LITTLE])
def test_what_cannot_be_turned_is_used_as_a_whole(known, lost):
    found = next(iter(known.values()))
    points = found.points.copy()
    points[lost] = np.nan
    windows = [window_of(align, found._replace(points=points), SIZE) for align in ALIGN]
    assert [window is None for window in windows] == ([False, False, True] if lost == LITTLE else [True] * 3)
    assert window_of("crop", found._replace(points=np.ones((21, 2))), SIZE) is None


def config(drawn, *pairs):
    keys = ["DATASETS.NAMES", "hand", "DATASETS.ROOT_DIR", str(drawn.root), "INPUT.EXIF", "True", "INPUT.PROB", "0.0"]
    keys += ["INPUT.RE_PROB", "0.0", "INPUT.PADDING", "0", "INPUT.SIZE_TRAIN", "[48,40]", "INPUT.SIZE_TEST", "[48,40]"]
    keys += ["DATALOADER.NUM_WORKERS", "0", "SOLVER.STAGE2.IMS_PER_BATCH", "4", "DATALOADER.NUM_INSTANCE", "2"]
    keys += ["INPUT.PIXEL_MEAN", "[0,0,0]", "INPUT.PIXEL_STD", "[1,1,1]", "INPUT.INTERPOLATION_TRAIN", "bilinear"]
    return load_config(None, [*keys, *pairs])[0]


def pictures(cfg):
    """Every image of training and test by path, as the network gets it: plain, augmented and test."""
    dataset = make_dataset(cfg)
    loaders = make_dataloader(cfg, dataset)
    augmented = loaders.augmented(2)
    augmented.batch_sampler.set_epoch(1)
    seen = {}
    for name, loader in (("plain", loaders.plain), ("train", augmented), ("test", loaders.test)):
        for batch in loader:
            for image, row in zip(batch["images"].to("cpu"), batch["index"].tolist(), strict=True):
                seen[name, loader.dataset.records[row].path] = image
    return seen


@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_training_validation_and_test_see_the_same_upright_hands(drawn, known, tmp_path, cache):
    keys = ("INPUT.ALIGN", "crop", "DATASETS.CACHE", cache, "DATASETS.CACHE_DIR", str(tmp_path))
    for _ in range(2):  # the second time from the file on disk
        seen = pictures(config(drawn, *keys))
        for (_, path), image in seen.items():
            reading = Reading(True, windows={path: window_of("crop", known[path], SIZE)})
            expected = read_image(path, reading, target=Target(SIZE, "bilinear"))
            assert torch.equal((255 * image).round().byte().permute(1, 2, 0), torch.tensor(np.asarray(expected)))
    if cache == "disk":
        plain = pictures(config(drawn, *keys, "INPUT.ALIGN", "none"))
        assert not any(torch.equal(plain[key], seen[key]) for key in seen)


def test_fit_crop_keeps_the_shape_of_a_turned_picture(drawn):
    """Of a square picture for an input of 48 x 40 the sides are cut off, not squeezed."""
    keys = ("INPUT.ALIGN", "rotate", "INPUT.FIT_TEST", "crop")
    seen = pictures(config(drawn, *keys))
    path = drawn.query[0].path
    reading = make_dataset(config(drawn, *keys)).reading
    square = read_image(path, reading, target=Target((48, 48), "bilinear"))
    middle = np.asarray(square)[:, 4:44]
    assert np.array_equal((255 * seen["test", path]).round().byte().permute(1, 2, 0).numpy(), middle)


def test_a_letterbox_is_one_in_training_test_and_for_loose_images(drawn, tmp_path, monkeypatch):
    """Drawn hands are square: of 48 x 40 pixels they fill 40 x 40, turned upright or as they are."""
    keys = ("INPUT.FIT_TRAIN", "letterbox", "INPUT.FIT_TEST", "letterbox")
    for align in ("none", "rotate"):
        chosen = (*keys, "INPUT.ALIGN", align)
        cfg = config(drawn, *chosen)
        reading = make_dataset(cfg).reading
        seen = pictures(cfg)
        for (_, path), image in seen.items():
            picture = read_image(path, reading, target=Target((40, 40), "bilinear")).resize((40, 40), Image.BILINEAR)
            expected = np.zeros((48, 40, 3), np.uint8)
            expected[4:44] = picture
            assert np.array_equal((255 * image).round().byte().permute(1, 2, 0), expected), (align, path)
        paths = [record.path for record in drawn.query[:3]]
        found = embedder_of(drawn, tmp_path, monkeypatch, *chosen).embed(paths)
        assert np.array_equal(found, torch.stack([seen["test", path] for path in paths]).flatten(1))


@pytest.mark.parametrize("align", ALIGN)
def test_key_points_go_along(known, align):
    """What a method reads of them (HOReID) lies in the aligned picture."""
    path, found = next(iter(known.items()))
    windows = {path: window_of(align, found, SIZE)}
    file, places = KeyPointFile(21, {path: found}), in_window(found, align)
    seen = PointReader(file, Reading(True, windows=windows))(path, [], SIZE[::-1]).numpy()
    inside = seen[:, 2] > 0
    assert np.abs(seen[inside, :2] - places[inside]).max() < 1e-4 and (inside.all() or align != "crop")
    mirrored = PointReader(file, Reading(True, windows=windows, mirrored={path}))(path, [], SIZE[::-1]).numpy()
    assert np.abs(mirrored[inside, 0] - (SIZE[1] - places[inside, 0])).max() < 1e-4


def test_images_without_points_are_counted_and_used_as_a_whole(drawn, known, tmp_path):
    names = {path.removeprefix(f"{drawn.root}/"): found for path, found in known.items()}
    lost, *_, last = names
    names[lost] = KeyPoints(np.full((21, 2), np.nan), np.zeros(21), 0.0, "", 0, (96, 96))
    del names[last]
    write_keypoints(tmp_path / "points.csv", names)
    keys = ("INPUT.ALIGN", "crop", "DATASETS.KEYPOINTS", str(tmp_path / "points.csv"))
    dataset = make_dataset(config(drawn, *keys))
    (note,) = [note for note in dataset.notes if "INPUT.ALIGN" in note]
    assert note.startswith("warning: INPUT.ALIGN crop: 2 images of 25 without key points of a hand, used as a whole: ")
    assert lost in note and last in note
    seen, plain = pictures(config(drawn, *keys)), pictures(config(drawn))
    same = {path for (_, path), image in seen.items() if torch.equal(image, plain[_, path])}
    assert same == {f"{drawn.root}/{lost}", f"{drawn.root}/{last}"}


def test_settings_that_cannot_work_are_refused(drawn, tmp_path):
    assert "INPUT.EXIF = False: key points are those of the upright" in message(
        config, drawn, "INPUT.ALIGN", "crop", "INPUT.EXIF", "False"
    )
    assert "lanczos" in message(config, drawn, "INPUT.ALIGN", "crop", "INPUT.INTERPOLATION_TEST", "lanczos")
    assert "Did you mean crop?" in message(config, drawn, "INPUT.ALIGN", "cropp")
    people = KeyPoints(np.ones((17, 2)), np.ones(17), 1.0)
    write_keypoints(tmp_path / "p.csv", {r.path.removeprefix(f"{drawn.root}/"): people for r in drawn.query})
    keys = ("INPUT.ALIGN", "crop", "DATASETS.KEYPOINTS", str(tmp_path / "p.csv"))
    assert "with 17 key points an image, those of people" in message(make_dataset, config(drawn, *keys))


def test_resume_and_results_depend_on_the_points(drawn, tmp_path):
    dataset = make_dataset(config(drawn, "INPUT.ALIGN", "crop"))
    windows = dataset.reading.windows
    moved = dict(windows)
    moved[dataset.train[0].path] = moved[dataset.train[0].path]._replace(turn=3.0)
    prints = [fingerprint(dataset.train, windows=chosen) for chosen in (None, {}, windows, moved)]
    assert prints[0] == prints[1] and len(set(prints)) == 3
    run = Run(None, tmp_path)
    run.check_data(dataset.train, windows)
    run.position = TrainingProgress(2, 1)
    run.check_data(dataset.train, windows)
    with pytest.raises(ReIDError, match="other images, labels or key points"):
        run.check_data(dataset.train, moved)


def embedder_of(drawn, tmp_path, monkeypatch, *pairs):
    file = tmp_path / "config.yml"
    file.write_text(config(drawn).dump())
    monkeypatch.setattr("processor.embedder._torch_network", lambda cfg: lambda images: images.to("cpu").flatten(1))
    return load_embedder(file, "model.pth", list(pairs))


def test_loose_images_are_aligned_by_the_file_in_their_folder(drawn, tmp_path, monkeypatch, caplog):
    embedder = embedder_of(drawn, tmp_path, monkeypatch, "INPUT.ALIGN", "crop")
    paths = [record.path for record in drawn.query[:3]]
    seen = pictures(config(drawn, "INPUT.ALIGN", "crop"))
    expected = torch.stack([seen["test", path] for path in paths]).flatten(1).numpy()
    assert np.array_equal(embedder.embed(paths), expected) and not caplog.records
    features, listed = extract(embedder, drawn.root / "test" / "query", tmp_path / "features", "model")
    row = [image.name for image in listed].index("/".join(paths[0].split("/")[-2:]))
    assert np.array_equal(features[row], expected[0])
    other = save(tmp_path / "other.png", pixels(0))
    said = message(embedder.embed, [other])
    assert (
        said.startswith("INPUT.ALIGN = crop, and 1 image is in no file of key points") and "datasets.keypoints" in said
    )
    embedder.embed([paths[0], other, Image.new("RGB", (8, 8))])
    assert "2 images of 3 without key points" in caplog.text and "a picture in memory" in caplog.text


def test_loose_images_are_found_by_the_end_of_their_paths(drawn, known, tmp_path):
    names = {path.removeprefix(f"{drawn.root}/"): found for path, found in known.items()}
    write_keypoints(tmp_path / "points.csv", names)
    windows = WindowsByName(config(drawn, "INPUT.ALIGN", "palm", "DATASETS.KEYPOINTS", str(tmp_path / "points.csv")))
    name = next(iter(names))
    assert windows.get(f"elsewhere/{name}") == window_of("palm", names[name], SIZE)
    assert windows.get("elsewhere/1.png") is None and windows.get(f"elsewhere/{name}x") is None

"""``python -m datasets.keypoints``: with a detector that returns true points, and with MediaPipe where installed."""

import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datasets import keypoints
from datasets.hands.detector import PACKAGE, FoundHand, HandDetector
from datasets.keypoints import Work, find_keypoints, main
from datasets.parsing.keypoints import read_keypoints
from datasets.synthetic_hand.dataset import SyntheticHand
from tests.datasets.hand_trees import message
from tests.datasets.pictures import pixels, save
from utils.console.interrupt import InterruptedRunError, catch_signals
from utils.optional import MissingPackageError, import_optional

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "11k_hands"
HAND = np.arange(42, dtype=float).reshape(21, 2) / 4


class Detector:
    """Finds as many hands as the red value of the top left pixel, the largest first."""

    def __call__(self, picture):
        count = picture.getpixel((0, 0))[0]
        return [FoundHand(HAND + i, ("left", "right")[i % 2], 0.9 - 0.1 * i) for i in range(count)]


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "hands"
    for number, count in enumerate((1, 0, 2, 1)):
        image = pixels(number, 40, 30)
        image[0, 0] = count
        save(root / f"p{number}" / "1.png", image)
    (root / "p4").mkdir()
    (root / "p4" / "broken.png").write_bytes(b"\x89PNG")
    return root


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    monkeypatch.setattr(keypoints, "HandDetector", Detector)
    monkeypatch.setattr(keypoints.find_keypoints, "__defaults__", (Detector, 1))


def run(root, *arguments):
    return main(["--root", str(root), "--processes", "1", *arguments])


def test_hands_are_written_counted_and_shown(photos, tmp_path, capsys):
    output, sheet = tmp_path / "out" / "points.csv", tmp_path / "sheet.png"
    assert run(photos, "--output", str(output), "--sheet", str(sheet)) == 0
    said = capsys.readouterr().err
    assert "hands in 3 of 4 images, 3 left and 0 right" in said and "no hand in 1 image: p1/1.png" in said
    assert "several hands, of which the largest is kept in 1 image: p2/1.png" in said
    assert "1 file cannot be read and have no row: p4/broken.png" in said
    images = read_keypoints(output).images
    assert list(images) == ["p0/1.png", "p1/1.png", "p2/1.png", "p3/1.png"]
    assert np.array_equal(images["p0/1.png"].points, HAND) and images["p0/1.png"].size == (30, 40)
    assert images["p2/1.png"].hands == 2 and not images["p1/1.png"].found
    with Image.open(sheet) as drawn:
        assert drawn.width > 300


def test_the_same_command_resumes_and_looks_at_newer_images_again(photos, tmp_path, monkeypatch):
    output = tmp_path / "points.csv"
    paths = {f"p{i}/1.png": f"{photos}/p{i}/1.png" for i in range(4)}
    looked = []

    class Counting(Detector):
        def __call__(self, picture):
            looked.append(picture.getpixel((0, 0))[0])
            if len(looked) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(picture)

    with catch_signals(), pytest.raises(InterruptedRunError, match="saved"):
        find_keypoints(Work(paths), output, Counting)
    assert list(read_keypoints(output).images) == ["p0/1.png", "p1/1.png"]
    assert list(find_keypoints(Work(paths), output, Counting)) == list(paths) and looked == [1, 0, 2, 1]
    find_keypoints(Work(paths), output, Counting)
    assert len(looked) == 4
    later = output.stat().st_mtime + 10
    os.utime(paths["p2/1.png"], (later, later))
    find_keypoints(Work(paths), output, Counting)
    assert looked == [1, 0, 2, 1, 2]


def test_photographs_are_turned_upright_first(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = pixels(0, 30, 40)
    image[-1, 0] = 1  # the bottom left of what is stored is the top left of what is seen
    (tmp_path / "hands").mkdir()
    Image.fromarray(image).save(tmp_path / "hands" / "a.png", exif=exif)
    assert run(tmp_path / "hands") == 0
    found = read_keypoints(tmp_path / "hands" / "keypoints.csv").images["a.png"]
    assert found.size == (30, 40) and found.hands == 1


def test_mistakes_are_one_message(tmp_path, photos, capsys):
    assert run(tmp_path / "nowhere") == 2 and "no such folder" in capsys.readouterr().err
    assert run(photos, "--output", "points.npz") == 2 and "ends in .csv" in capsys.readouterr().err
    assert run(photos, "--processes", "0") == 2 and "--processes 0" in capsys.readouterr().err


def test_without_mediapipe_the_line_to_type_is_named(monkeypatch):
    def missing(name):
        raise MissingPackageError(f"{name} is not installed")

    monkeypatch.setattr("datasets.hands.detector.import_optional", missing)
    said = message(HandDetector)
    assert "mediapipe is not installed" in said and f"pip install '{PACKAGE}'" in said
    listed = (Path(__file__).parents[2] / "requirements-extra.txt").read_text(encoding="utf-8")
    assert PACKAGE in listed


@pytest.mark.parametrize(("width", "fill"), [(40, None), (60, "border"), (80, "edge")])
def test_a_hand_that_is_cut_off_is_looked_for_with_a_border(width, fill):
    """A network that finds hands in pictures of one width alone, at one place of the picture without its border."""
    seen = []

    class Network:
        def process(self, array):
            seen.append(array)
            if array.shape[1] != width:
                return SimpleNamespace(multi_hand_landmarks=None, multi_handedness=None)
            at = (np.array([10, 5]) + (width - 40) / 2) / array.shape[1::-1]
            marks = SimpleNamespace(landmark=[SimpleNamespace(x=at[0], y=at[1])] * 21)
            side = SimpleNamespace(classification=[SimpleNamespace(label="Left", score=0.9)])
            return SimpleNamespace(multi_hand_landmarks=[marks], multi_handedness=[side])

    detector = HandDetector.__new__(HandDetector)
    detector.network = Network()
    picture = pixels(0, 40, 40)
    picture[0], picture[-1], picture[:, 0], picture[:, -1] = (9, 9, 9), (9, 9, 9), (9, 9, 9), (9, 9, 9)
    picture[0, 20] = 200
    (hand,) = detector(Image.fromarray(picture))
    assert hand.hand == "right" and np.allclose(hand.points, [10, 5])
    if fill:
        assert np.array_equal(seen[-1][0, width // 2], (9, 9, 9) if fill == "border" else (200, 200, 200))


def detector():
    try:
        import_optional("mediapipe")
    except MissingPackageError as error:
        pytest.skip(f"{error}: pip install '{PACKAGE}'")
    return HandDetector()


def test_the_detector_finds_hands_and_which_they_are():
    """MediaPipe's label is that of the mirror image; here ``left`` is a left hand, for backs and palms alike."""
    if not (PHOTOS / "HandInfo.csv").exists():
        pytest.skip(f"{PHOTOS} is not there")
    detect = detector()
    rows = [line.split(",") for line in (PHOTOS / "HandInfo.csv").read_text().splitlines()]
    aspect, name = rows[0].index("aspectOfHand"), rows[0].index("imageName")
    for label in ("dorsal left", "dorsal right", "palmar left", "palmar right"):
        of_label = [row[name] for row in rows[1:] if row[aspect] == label and (PHOTOS / "Hands" / row[name]).exists()]
        found = [detect(Image.open(PHOTOS / "Hands" / photo).convert("RGB")) for photo in of_label[::20][:3]]
        hands = [hands[0] for hands in found if hands]
        assert len(hands) >= 2 and {hand.hand for hand in hands} == {label.split()[1]}
        assert all(hand.points.shape == (21, 2) for hand in hands)


def test_the_detector_on_drawn_hands(tmp_path):
    """Those it finds are where the true points are: within a fifth of the palm on average."""
    detect = detector()
    size = {"train_identities": 2, "test_identities": 2, "images_per_identity": 4, "size": 256}
    drawn = SyntheticHand(tmp_path, **size)
    known = read_keypoints(drawn.root / "keypoints.csv").images
    for name, true in known.items():
        for hand in detect(Image.open(drawn.root / name))[:1]:
            off = np.hypot(*(hand.points - true.points).T).mean()
            assert off < 0.2 * np.hypot(*(true.points[0] - true.points[9]))
    logging.getLogger("absl").setLevel(logging.ERROR)

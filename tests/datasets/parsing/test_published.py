"""The six published sets, read from miniature copies with the right names. The images are empty files."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from datasets.bases import Photo
from datasets.dukemtmcreid import DukeMTMCreID
from datasets.market1501 import Market1501
from datasets.msmt17 import MSMT17
from datasets.occ_duke import OccludedDuke
from datasets.parsing.published import PublishedDataset, Size
from datasets.vehicleid import VehicleID, draw
from datasets.veri import VeRi
from utils.errors import ReIDError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def market(folder: Path) -> Path:
    touch(
        folder / "bounding_box_train",
        "0010_c3s1_000001_01.jpg",
        "0002_c1s1_000451_03.jpg",
        "0002_c6s2_000451_03.jpg",
        "1500_c3s1_000451_01.jpg",
        "Thumbs.db",
    )
    touch(folder / "query", "0001_c1s1_001051_00.jpg", "0003_c2s1_001051_00.jpg")
    touch(
        folder / "bounding_box_test",
        "-1_c1s1_000401_03.jpg",
        "-1_c2s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0001_c2s1_000301_01.jpg",
        "0003_c1s1_000301_01.jpg",
        "0003_c5s1_000301_01.jpg",
    )
    return folder


def duke(folder: Path) -> Path:
    touch(
        folder / "bounding_box_train",
        *(f"{pid}_c{cam}_f0046182.jpg" for pid, cam in [("7140", 8), ("0001", 2), ("0097", 5), ("0001", 7)]),
    )
    touch(folder / "query", "0005_c2_f0046985.jpg")
    touch(folder / "bounding_box_test", "0005_c6_f0046985.jpg", "0008_c1_f0000001.jpg")
    return folder


def names(records: list) -> list[str]:
    return [Path(r.path).name for r in records]


def test_market_keeps_distractors_and_drops_junk(tmp_path: Path) -> None:
    data = Market1501(market(tmp_path / "Market-1501-v15.09.15"))
    assert sorted(names(data.gallery)) == [
        "0000_c1s1_000151_01.jpg",
        "0001_c2s1_000301_01.jpg",
        "0003_c1s1_000301_01.jpg",
        "0003_c5s1_000301_01.jpg",
    ]
    assert data.test_identities == ["0000", "0001", "0003"]
    assert {r.pid for r in data.query} == {1, 2}
    assert any("2 junk images" in note for note in data.notes)
    assert not any("Thumbs" in note for note in data.notes)
    assert data.camera_rule == "market"
    assert data.prompt == "A photo of a {} person."


def test_market_labels_are_sorted_and_cameras_start_at_zero(tmp_path: Path) -> None:
    data = Market1501(market(tmp_path))
    labels = {Path(r.path).name[:4]: r.pid for r in data.train}
    assert labels == {"0002": 0, "0010": 1, "1500": 2}
    # Cameras 1, 3 and 6 train: 0, 1 and 2. The test's 2 and 5 follow.
    cameras = {Path(r.path).name[6]: r.camid for r in [*data.train, *data.query, *data.gallery]}
    assert cameras == {"1": 0, "3": 1, "6": 2, "2": 3, "5": 4}
    assert (data.num_train_pids, data.num_train_cams, data.num_train_views) == (3, 3, 1)


def test_camera_numbers_are_the_file_names_minus_one_when_all_cameras_train(tmp_path: Path) -> None:
    folder = market(tmp_path)
    touch(folder / "bounding_box_train", *(f"0007_c{c}s1_000001_01.jpg" for c in range(1, 7)))
    data = Market1501(folder)
    assert all(r.camid == int(Path(r.path).name.split("_c")[1][0]) - 1 for r in data.train + data.gallery)


@pytest.mark.parametrize("below", ["", "Market-1501-v15.09.15", "market1501", "Market-1501"])
def test_root_may_be_the_folder_or_its_parent(tmp_path: Path, below: str) -> None:
    market(tmp_path / below)
    assert len(Market1501(tmp_path).train) == 4
    assert len(Market1501(str(tmp_path)).query) == 2


def test_misnamed_files_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = market(tmp_path)
    touch(
        folder / "bounding_box_train",
        "0002_c7s1_000451_03.jpg",  # Market-1501 has six cameras
        "0002_c0s1_000451_03.jpg",
        "2_c1s1_000451_03.jpg",
        "copy of 0002_c1s1_000451_03.jpg",
        "0001_c2_f0046182.jpg",  # DukeMTMC-reID
    )
    data = Market1501(folder)
    assert len(data.train) == 4
    assert any(note.startswith(str(folder / "bounding_box_train")) and ": 5 images" in note for note in data.notes)


def test_a_folder_of_another_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ReIDError,
        match=r"none of its 4 images is named like 0002_c1s1_000451_03\.jpg.*found 0001_c2_f0046182",
    ):
        Market1501(duke(tmp_path))


@pytest.mark.parametrize("dataset", [Market1501, DukeMTMCreID, OccludedDuke, MSMT17, VeRi, VehicleID])
def test_the_error_for_absent_data_names_folders_and_source(tmp_path: Path, dataset: type) -> None:
    with pytest.raises(ReIDError) as error:
        dataset(tmp_path / "data")
    message = str(error.value)
    assert str(tmp_path / "data" / dataset.folders[0]) in message
    assert dataset.source in message
    assert "https://" in message or "http://" in message


def test_absent_split_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = market(tmp_path)
    for path in (folder / "query").iterdir():
        path.unlink()
    (folder / "query").rmdir()
    with pytest.raises(ReIDError, match="query: no such folder"):
        Market1501(folder)


@pytest.mark.parametrize(
    ("dataset", "build", "train"),
    [
        (Market1501, market, "bounding_box_train"),
        (DukeMTMCreID, duke, "bounding_box_train"),
    ],
)
def test_train_images_are_needed_only_for_training(tmp_path: Path, dataset: type, build, train: str) -> None:
    folder = build(tmp_path)
    for path in (folder / train).iterdir():
        path.unlink()
    (folder / train).rmdir()
    with pytest.raises(ReIDError, match=f"{train}: no such folder"):
        dataset(folder)
    data = dataset(folder, require_train=False)
    assert data.train == []
    assert data.query
    assert any("only a test is possible" in note for note in data.notes)
    # The counts of what was not read are not compared.
    assert not any(f"{data.title} train" in note or "cameras, found" in note for note in data.notes)


def test_without_train_images_cameras_and_views_are_those_of_training(tmp_path: Path) -> None:
    """A model with SIE embeds each camera by its number in training, which a test alone must not shift."""
    folder = market(tmp_path / "market")
    (folder / "bounding_box_train").rename(folder / "elsewhere")
    data = Market1501(folder, require_train=False)
    assert all(r.camid == int(Path(r.path).name.split("_c")[1][0]) - 1 for r in data.query + data.gallery)
    folder = veri(tmp_path / "veri")
    (folder / "image_train").rename(folder / "elsewhere")
    labels = {"0002_c002_00030600_0.jpg": 7, "0002_c003_00030600_0.jpg": 2, "0005_c001_00030600_0.jpg": 4}
    keypoints(folder / "keypoint_train.txt", {})
    keypoints(folder / "keypoint_test.txt", labels)
    data = VeRi(folder, require_train=False)
    assert {Path(r.path).name: r.viewid for r in data.query + data.gallery} == labels
    assert [r.camid for r in data.query + data.gallery] == [1, 2, 0]


def test_train_images_that_are_there_are_read_even_for_a_test(tmp_path: Path) -> None:
    data = Market1501(market(tmp_path), require_train=False)
    assert len(data.train) == 4


def test_unexpected_counts_are_notes(tmp_path: Path) -> None:
    notes = Market1501(market(tmp_path)).notes
    assert "Market-1501 train: expected 751 identities and 12,936 images, found 3 identities and 4 images" in notes
    assert "Market-1501 query: expected 750 identities and 3,368 images, found 2 identities and 2 images" in notes
    assert "Market-1501 gallery: expected 751 identities and 15,913 images, found 3 identities and 4 images" in notes
    assert "Market-1501: expected 6 cameras, found 5" in notes


def test_expected_counts_leave_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Market1501, "sizes", (Size(3, 4), Size(2, 2), Size(3, 4)))
    folder = market(tmp_path)
    touch(folder / "bounding_box_train", "0002_c4s1_000451_03.jpg")
    notes = Market1501(folder).notes  # one train image and the sixth camera more than in the fixture
    assert [note for note in notes if note.startswith("Market-1501")] == [
        "Market-1501 train: expected 3 identities and 4 images, found 3 identities and 5 images"
    ]


def test_duke_labels_are_sorted(tmp_path: Path) -> None:
    data = DukeMTMCreID(duke(tmp_path / "dukemtmcreid" / "DukeMTMC-reID").parent.parent)
    assert {Path(r.path).name[:4]: r.pid for r in data.train} == {"0001": 0, "0097": 1, "7140": 2}
    assert data.test_identities == ["0005", "0008"]
    assert data.camera_rule == "market"


def test_duke_and_occluded_duke_share_a_root_as_in_the_published_code(tmp_path: Path) -> None:
    duke(tmp_path / "dukemtmcreid" / "DukeMTMC-reID")
    occluded = duke(tmp_path / "dukemtmcreid" / "Occluded_Duke")
    touch(occluded / "query", "0008_c2_f0000002.jpg")
    assert len(DukeMTMCreID(tmp_path).query) == 1
    data = OccludedDuke(tmp_path)
    assert len(data.query) == 2
    assert {r.viewid for r in data.train + data.query + data.gallery} == {0}
    assert any("Occluded-Duke query: expected 519 identities and 2,210 images" in note for note in data.notes)


MSMT_LISTS = {
    "list_train.txt": [
        "0000/0000_000_01_0303morning_0015_0.jpg 0",
        "0001/0001_001_15_0303noon_0016_1_ex.jpg 1",
    ],
    "list_val.txt": ["0001/0001_002_04_0303afternoon_0001_2.jpg 1"],
    "list_query.txt": ["0000/0000_000_01_0303morning_0015_0.jpg 0"],
    "list_gallery.txt": [
        "0000/0000_001_14_0303morning_0245_0.jpg 0",
        "0002/0002_001_14_0303morning_0245_0.jpg 2",
    ],
}


def msmt(folder: Path, train: str, test: str) -> Path:
    for name, lines in MSMT_LISTS.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(lines) + "\n\n")
        touch(
            folder / (train if name in ("list_train.txt", "list_val.txt") else test),
            *(x.split()[0] for x in lines),
        )
    return folder


@pytest.mark.parametrize(
    ("version", "below", "train", "test"),
    [
        ("V1", "MSMT17", "train", "test"),
        ("V1", "", "train", "test"),
        ("V2", "MSMT17_V2", "mask_train_v2", "mask_test_v2"),
    ],
)
def test_msmt_releases(tmp_path: Path, version: str, below: str, train: str, test: str) -> None:
    msmt(tmp_path / below, train, test)
    data = MSMT17(tmp_path)
    assert any(note.startswith(f"MSMT17 {version} in {tmp_path / below}") for note in data.notes)
    assert version in data.name
    # list_val.txt trains too; train person 0 and test person 0 are two people.
    assert [(r.pid, r.camid) for r in data.train] == [(0, 0), (1, 2), (1, 1)]
    assert [(r.pid, r.camid) for r in data.query + data.gallery] == [(0, 0), (0, 3), (1, 3)]
    assert not set(data.train_identities) & set(data.test_identities)
    assert all(Path(r.path).exists() for r in data.train + data.query + data.gallery)


def test_msmt_v1_comes_first_and_a_note_names_the_version(tmp_path: Path) -> None:
    msmt(tmp_path / "MSMT17_V1", "train", "test")
    msmt(tmp_path / "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    assert "MSMT17 V1" in MSMT17(tmp_path).notes[0]
    assert "MSMT17 V2" in MSMT17(tmp_path / "MSMT17_V2").notes[0]


def test_msmt_without_either_layout(tmp_path: Path) -> None:
    msmt(tmp_path, "training", "testing")
    with pytest.raises(ReIDError, match=r"neither test \(V1\) nor mask_test_v2 \(V2\)"):
        MSMT17(tmp_path)


def test_msmt_listed_but_absent_images_are_an_error(tmp_path: Path) -> None:
    folder = msmt(tmp_path, "train", "test")
    (folder / "test/0002/0002_001_14_0303morning_0245_0.jpg").unlink()
    with pytest.raises(ReIDError, match=r"1 of 6 listed images are absent: .*0002_001_14"):
        MSMT17(folder)


def test_msmt_unreadable_lines(tmp_path: Path) -> None:
    folder = msmt(tmp_path, "train", "test")
    lines = MSMT_LISTS["list_query.txt"]
    (folder / "list_query.txt").write_text("\n".join([*lines, "0000/0000_000_16_0303morning_0015_0.jpg 0", "x"]))
    data = MSMT17(folder)
    assert len(data.query) == 1
    assert any("list_query.txt: 2 lines do not read like" in note for note in data.notes)
    (folder / "list_query.txt").write_text("x\ny\n")
    with pytest.raises(ReIDError, match="none of its 2 lines reads like"):
        MSMT17(folder)
    (folder / "list_query.txt").write_text("0003/0003_000_01_0303morning_0015_0.jpg 4\n")
    with pytest.raises(ReIDError, match="1 lines name another identity than their folder"):
        MSMT17(folder)
    (folder / "list_gallery.txt").unlink()
    (folder / "list_query.txt").write_text("\n".join(lines))
    with pytest.raises(ReIDError, match=r"list_gallery\.txt: cannot be read"):
        MSMT17(folder)


def test_msmt_test_only(tmp_path: Path) -> None:
    folder = msmt(tmp_path, "train", "test")
    (folder / "train").rename(folder / "elsewhere")
    with pytest.raises(ReIDError, match="listed images are absent"):
        MSMT17(folder)
    assert MSMT17(folder, require_train=False).train == []


def veri(folder: Path) -> Path:
    touch(
        folder / "image_train",
        *(f"{p}_c{c}_00016450_0.jpg" for p, c in [("0007", "001"), ("0001", "020"), ("0001", "003")]),
    )
    touch(folder / "image_query", "0002_c002_00030600_0.jpg")
    touch(
        folder / "image_test",
        "0002_c003_00030600_0.jpg",
        "0005_c001_00030600_0.jpg",
        "0005_c021_00030600_0.jpg",
    )
    return folder


def keypoints(path: Path, labels: dict[str, int]) -> None:
    coordinates = " ".join(["-1"] * 40)
    path.write_text("".join(f"VeRi/image_train/{name} {coordinates} {view}\n" for name, view in labels.items()))


def test_veri_cameras_and_absent_viewpoints(tmp_path: Path) -> None:
    data = VeRi(veri(tmp_path / "VeRi").parent)
    assert {Path(r.path).name[:9]: (r.pid, r.camid) for r in data.train} == {
        "0001_c003": (0, 1),
        "0001_c020": (0, 2),
        "0007_c001": (1, 0),
    }
    assert {r.viewid for r in data.train + data.query + data.gallery} == {0}
    assert data.num_train_views == 1
    assert len(data.gallery) == 2  # there is no camera 21
    assert any(
        "no keypoint_train.txt and no keypoint_test.txt" in note and "every view is 0" in note for note in data.notes
    )
    assert data.prompt == "A photo of a {} vehicle."
    assert data.camera_rule == "market"


@pytest.mark.parametrize("above", [False, True])
def test_veri_viewpoints(tmp_path: Path, above: bool) -> None:
    folder = veri(tmp_path / "VeRi")
    beside = tmp_path if above else folder
    keypoints(
        beside / "keypoint_train.txt",
        {"0007_c001_00016450_0.jpg": 7, "0001_c020_00016450_0.jpg": 0, "0002_c002_00030600_0.jpg": 7},
    )
    keypoints(
        beside / "keypoint_test.txt",
        {"0002_c002_00030600_0.jpg": 0, "0002_c003_00030600_0.jpg": 7, "0005_c001_00030600_0.jpg": 3},
    )
    data = VeRi(folder)
    views = {Path(r.path).name[:9]: r.viewid for r in data.train + data.query + data.gallery}
    # 0 and 7 train: 0 and 1; the test's 3 follows. Where both files label an image the train file counts.
    assert views == {"0007_c001": 1, "0001_c020": 0, "0002_c002": 1, "0002_c003": 1, "0005_c001": 2}
    assert data.num_train_views == 2
    assert any("without a viewpoint label were left out: train 1, query 0, gallery 0" in note for note in data.notes)
    # Counts are compared before that.
    assert any("VeRi-776 train: expected" in n and n.endswith("found 2 identities and 3 images") for n in data.notes)


def test_veri_needs_both_viewpoint_files(tmp_path: Path) -> None:
    folder = veri(tmp_path)
    keypoints(folder / "keypoint_train.txt", {"0007_c001_00016450_0.jpg": 7})
    data = VeRi(folder)
    assert len(data.train) == 3
    assert {r.viewid for r in data.train} == {0}
    assert any("no keypoint_test.txt in" in note for note in data.notes)


def test_veri_malformed_viewpoint_lines(tmp_path: Path) -> None:
    folder = veri(tmp_path)
    labels = {p.name: 1 for sub in ("image_train", "image_query", "image_test") for p in (folder / sub).iterdir()}
    keypoints(folder / "keypoint_train.txt", labels)
    keypoints(folder / "keypoint_test.txt", {"0002_c002_00030600_0.jpg": 8})
    with (folder / "keypoint_test.txt").open("a") as file:
        file.write("0002_c002_00030600_0.jpg 3\n")
    data = VeRi(folder)
    assert len(data.train) == 3
    assert any("keypoint_test.txt: 2 lines are not" in note for note in data.notes)


def vehicleid(folder: Path, test_ids: int = 12) -> Path:
    train = {"0000001": 100, "0000002": 100, "0000003": 9, "0000004": 26000}
    test = {f"{1000 + 10 * v + i:07d}": v + 200 for v in range(test_ids) for i in range(2 + v % 4)}
    lists = folder / "train_test_split"
    lists.mkdir(parents=True)
    (lists / "train_list.txt").write_text("".join(f"{image} {vehicle}\n" for image, vehicle in train.items()))
    for size, share in ((800, 4), (1600, 8), (2400, 12)):
        chosen = {image: v for image, v in test.items() if v < 200 + share}
        (lists / f"test_list_{size}.txt").write_text("".join(f"{i} {v}\r\n" for i, v in chosen.items()))
    touch(folder / "image", *(f"{image}.jpg" for image in [*train, *test]))
    return folder


def test_vehicleid_protocol(tmp_path: Path) -> None:
    data = VehicleID(vehicleid(tmp_path / "VehicleID_V1.0").parent)
    assert {Path(r.path).stem: r.pid for r in data.train} == {
        "0000001": 1,
        "0000002": 1,
        "0000003": 0,
        "0000004": 2,
    }
    assert Counter(r.pid for r in data.gallery) == dict.fromkeys(range(4), 1)
    assert Counter(r.pid for r in data.query) == {0: 1, 1: 2, 2: 3, 3: 4}
    assert not set(names(data.query)) & set(names(data.gallery))
    assert data.camera_rule == "none"
    assert {r.camid for r in data.train + data.query + data.gallery} == {0}
    assert all(data.has_positive())
    assert data.prompt == "A photo of a {} vehicle."


@pytest.mark.parametrize(("test_size", "vehicles"), [(800, 4), (1600, 8), (2400, 12)])
def test_vehicleid_test_sizes(tmp_path: Path, test_size: int, vehicles: int) -> None:
    data = VehicleID(vehicleid(tmp_path), test_size=test_size)
    assert len(data.gallery) == vehicles
    assert str(test_size) in data.name
    assert any(f"VehicleID gallery: expected {test_size:,} identities" in note for note in data.notes)


def test_vehicleid_draws_are_deterministic_and_differ(tmp_path: Path) -> None:
    folder = vehicleid(tmp_path)

    def gallery(**choice: int) -> list[str]:
        return names(VehicleID(folder, test_size=2400, **choice).gallery)

    runs = [gallery(run=run) for run in range(10)]
    random.seed(5)
    assert [gallery(run=run) for run in range(10)] == runs
    assert len({tuple(run) for run in runs}) == 10
    assert gallery(seed=1) != runs[0]
    # The order of the list's lines does not matter.
    path = folder / "train_test_split/test_list_2400.txt"
    path.write_text("\n".join(reversed(path.read_text().split("\n"))))
    assert gallery(run=3) == runs[3]


def test_vehicleid_draws_are_frozen(tmp_path: Path) -> None:
    """A change of Python or of this code must not change what "run 0" means."""
    data = VehicleID(vehicleid(tmp_path), test_size=800, seed=0, run=0)
    assert names(data.gallery) == FROZEN


FROZEN = ["0001000.jpg", "0001012.jpg", "0001023.jpg", "0001033.jpg"]


def test_vehicleid_runs_can_be_averaged(tmp_path: Path) -> None:
    """All runs hold the same images and as many queries, so features serve all ten and the mean is fair."""
    sets = [VehicleID(vehicleid(tmp_path), test_size=2400)]
    sets += [VehicleID(tmp_path, test_size=2400, run=run) for run in range(1, 10)]
    images = [sorted(names(s.query + s.gallery)) for s in sets]
    assert all(i == images[0] for i in images)
    assert {len(s.query) for s in sets} == {len(sets[0].query)}
    assert all(s.train == sets[0].train and s.test_identities == sets[0].test_identities for s in sets)


def test_vehicleid_draws_are_uniform() -> None:
    photos = [Photo(f"{image}.jpg", "00200") for image in range(5)]
    drawn = Counter(draw(photos, seed=seed, run=run)[1][0].path for seed in range(40) for run in range(10))
    assert len(drawn) == 5
    # 400 draws over 5 images: 80 each with standard deviation 8.
    assert all(48 < count < 112 for count in drawn.values())


def test_vehicleid_mistakes(tmp_path: Path) -> None:
    folder = vehicleid(tmp_path)
    with pytest.raises(ReIDError, match=r"DATASETS\.TEST_SIZE = 801: choose one of 800, 1600, 2400"):
        VehicleID(folder, test_size=801)
    with pytest.raises(ReIDError, match=r"DATASETS\.RUN is -1"):
        VehicleID(folder, run=-1)
    (folder / "image/1000.jpg").touch()
    (folder / "image/0000003.jpg").unlink()
    with pytest.raises(ReIDError, match=r"1 of 18 listed images are absent: .*0000003\.jpg"):
        VehicleID(folder)
    (folder / "train_test_split/train_list.txt").unlink()
    with pytest.raises(ReIDError, match=r"train_list\.txt: cannot be read"):
        VehicleID(folder)
    data = VehicleID(folder, require_train=False)
    assert data.train == []
    (folder / "train_test_split/test_list_1600.txt").unlink()
    with pytest.raises(ReIDError, match=r"test_list_1600\.txt: cannot be read"):
        VehicleID(folder, test_size=1600, require_train=False)


@pytest.mark.parametrize(
    ("dataset", "total"),
    [(Market1501, 32_217), (DukeMTMCreID, 36_411), (OccludedDuke, 35_489), (MSMT17, 126_441), (VeRi, 51_035)],
)
def test_published_totals(dataset: type[PublishedDataset], total: int) -> None:
    """The papers give totals as well: 126,441 for MSMT17; Market-1501 32,668 + 3,368 - 3,819 junk."""
    assert sum(size.images for size in dataset.sizes) == total

"""Lists without a header: train.txt and test.txt, wherever they were written."""

import pytest

from datasets.listing import Listing
from datasets.parsing.protocols import Roles
from tests.datasets.hand_trees import message, plant

NAMES = [f"session{s}/{n:05d}.bmp" for s in (1, 2) for n in range(1, 31)]


@pytest.fixture
def root(tmp_path):
    return plant(tmp_path, *NAMES)


def write(root, train, test, form="{path} {label}"):
    for name, rows in (("train.txt", train), ("test.txt", test)):
        (root / name).write_text("\n".join(form.format(path=path, label=label) for path, label in rows) + "\n")
    return root / "train.txt"


def labelled(session, people=range(3)):
    return [(f"session{session}/{n:05d}.bmp", (n - 1) // 10) for n in range(1, 31) if (n - 1) // 10 in people]


@pytest.mark.parametrize(
    "form",
    [
        "{path} {label}",
        "{path},{label}",
        "{path}\t{label}.0",
        "/home/somebody/Tongji/ROI/{path} {label}",
        "D:\\Datasets\\Palm prints\\Tongji\\{path} {label}",
    ],
)
def test_the_same_labels_are_a_closed_protocol(root, form):
    data = Listing(write(root, labelled(1), labelled(2), form), root)
    assert data.protocol == "closed" and data.train_identities == data.test_identities == ["0", "1", "2"]
    assert [len(part) for part in (data.train, data.query, data.gallery)] == [30, 30, 30]
    assert {r.path for r in data.train} == {r.path for r in data.gallery}
    assert Listing(root / "test.txt", root).query == data.query


def test_label_first(root):
    write(root, labelled(1), labelled(2), "{label}.0,{path}")
    for name in ("train.txt", "test.txt"):
        (root / name).write_text("class,idx\n" + (root / name).read_text())
    assert len(Listing(root / "train.txt", root).query) == 30


def test_other_labels_are_an_open_protocol(root):
    file = write(root, labelled(1, [0, 1]), [*labelled(1, [2]), *labelled(2, [2])])
    plant(root, "session1/9.bmp", "session2/9.bmp")
    (root / "test.txt").write_text((root / "test.txt").read_text() + "session1/9.bmp 7\nsession2/9.bmp 7\n")
    data = Listing(file, root, roles=Roles("", runs=2))
    assert data.protocol == "open" and len(data.gallery) == 2 and len(data.query) == 20 and len(data.trials) == 2
    every = Listing(file, root, roles=Roles("all_pairs"))
    assert every.query == every.gallery and len(every.query) == 22


def test_a_test_needs_no_training_list(root):
    write(root, labelled(1), labelled(2))
    (root / "train.txt").unlink()
    data = Listing(root / "test.txt", root, require_train=False)
    assert data.train == [] and len(data.gallery) == 3
    assert "train.txt: no such list" in message(Listing, root / "test.txt", root)


@pytest.mark.parametrize(
    ("train", "test", "part"),
    [
        (labelled(1), labelled(1), "30 images are in both lists"),
        (labelled(1, [0, 1]), labelled(2, [1, 2]), "1 of 2 test labels are training labels too: 1"),
        (labelled(1), [("session9/00001.bmp", 0)], "1 of 1 images are not below"),
        ([*labelled(1), ("session1/00001.bmp", 2)], labelled(2), "has the labels 0 and 2"),
        ([*labelled(1), ("readme.txt", 2)], labelled(2), "line 31, 'readme.txt 2', is not an entry"),
        ([*labelled(1), ("../../else/x.bmp", 0)], labelled(2), "1 of 31 images are not below"),
    ],
)
def test_mistakes(root, train, test, part):
    assert part in message(Listing, write(root, train, test), root)


def test_a_name_without_a_person_is_an_error(root):
    write(root, labelled(1), labelled(2)).rename(root / "images.txt")
    assert "its name must hold train or test" in message(Listing, root / "images.txt", root)

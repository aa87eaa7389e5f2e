"""Several data sets as one listing: no person is shared, and a method that needs the source receives it."""

import csv

import pytest
import torch

import train_clipreid
from configs import load_config
from datasets import add_fields, make_dataloader, make_dataset
from datasets.inspect.command import main
from datasets.listing import Listing
from model.base import Batch
from model.methods.cilp_fgdi import CILPFGDI
from tests.toy_hands import make_toy_hands, write_config
from utils.errors import ReIDError


@pytest.fixture
def two(tmp_path):
    """Two sets whose identities and files have the same names, of 4 and of 6 training people."""
    make_toy_hands(tmp_path / "one", 4, 3, seed=1)
    make_toy_hands(tmp_path / "two", 6, 4, seed=2)
    return tmp_path


@pytest.fixture
def both(two):
    file = write_config(two / "two", two / "second")
    given = ["--merge", f"a={two / 'one'}", f"b={file}", "--write-listing", str(two / "both.csv")]
    assert main([*given, "--sheet", str(two / "sheet.png")]) == 0
    return two


def test_merged_sets_share_no_person(both):
    with (both / "both.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    parts = {name: make_dataset(load_config(None, part)[0]) for name, part in sets(both).items()}
    for split in ("train", "query", "gallery"):
        for name, part in parts.items():
            found = [row for row in rows if row["split"] == split and row["source"] == name]
            assert len(found) == len(getattr(part, split)), (split, name)
            assert all(row["identity"].startswith(f"{name}/") for row in found)
            assert all(row["path"].startswith({"a": "one/", "b": "two/"}[name]) for row in found)
    for column in ("identity", "camera", "view"):
        ours, theirs = ({row[column] for row in rows if row["source"] == name} for name in "ab")
        assert not ours & theirs, column
    together = Listing(both / "both.csv", both)
    assert together.num_train_pids == sum(part.num_train_pids for part in parts.values())
    assert len({r.pid for r in together.query}) == sum(len({r.pid for r in p.query}) for p in parts.values())


def sets(folder):
    return {
        name: ["DATASETS.NAMES", "hand", "DATASETS.ROOT_DIR", str(folder / place)]
        for name, place in (("a", "one"), ("b", "two"))
    }


def test_the_source_reaches_a_method_that_needs_it(both):
    file = write_config(both / "one", both / "run")
    keys = ["DATASETS.NAMES", "listing", "DATASETS.ROOT_DIR", str(both), "DATASETS.LISTING", str(both / "both.csv")]
    cfg, _ = load_config(file, keys)
    dataset = make_dataset(cfg)
    add_fields(cfg, dataset, frozenset({"source"}))
    assert dataset.num_train_sources == 2
    names = {r.path: int("/two/" in r.path) for r in dataset.train}
    loaders = make_dataloader(cfg, dataset)
    for loader in (loaders.plain, loaders.augmented(2)):
        for loaded in loader:
            batch = Batch.of(loaded, frozenset({"source"}), torch.device("cpu"))
            assert batch.extra["source"].tolist() == [names[dataset.train[i].path] for i in batch.index]
    untouched = make_dataset(cfg)
    add_fields(cfg, untouched, frozenset())
    assert not untouched.fields and untouched.num_train_sources == 0


def test_cilp_fgdi_learns_the_sources(both, monkeypatch):
    file = write_config(both / "one", both / "run")
    keys = ["DATASETS.NAMES", "listing", "DATASETS.ROOT_DIR", str(both), "DATASETS.LISTING", str(both / "both.csv")]
    keys += ["MODEL.METHOD", "cilp_fgdi", "MODEL.CILP_FGDI.DOMAIN_EPOCHS", "1", "SOLVER.STAGE1.MAX_EPOCHS", "2"]
    keys += ["MODEL.PROMPT", "A photo of a X X X X hand.", "TEST.BOOTSTRAP", "0"]
    found = []
    begin = CILPFGDI.begin_epoch

    def watched(self, data, at):
        begin(self, data, at)
        found.append((self.domain_prompts.context.shape[0], self.domain_of.tolist()))
        raise ReIDError("seen enough")

    monkeypatch.setattr(CILPFGDI, "begin_epoch", watched)
    assert train_clipreid.main(["--config_file", str(file), *keys]) == 2
    assert found == [(2, [0] * 4 + [1] * 6)]  # identities in the order of their names, a/... first


def test_empty_sources_are_refused(both):
    file = both / "both.csv"
    lines = file.read_text().splitlines()
    column = lines[0].split(",").index("source")
    cells = lines[3].split(",")
    cells[column] = ""
    file.write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]))
    with pytest.raises(ReIDError, match=r"line 4, column 'source' is empty"):
        Listing(file, both)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{0}/one"], "expected NAME=FOLDER"),
        (["a=", "b={0}/two"], "expected NAME=FOLDER"),
        (["a/b={0}/one"], "expected NAME=FOLDER"),
        (["a={0}/one", "a={0}/two"], "a is named already"),
        (["a={0}/one", "b={0}/nowhere"], "--merge b="),
        (["a={0}/one", "b={0}/empty"], "--merge b="),
        (["a={0}/one", "b={0}/absent.yml"], "--merge b="),
        (["a={0}/one", "b={0}/one"], "is in a and in b"),
    ],
)
def test_what_cannot_be_merged_is_refused(given, message, two, capsys):
    (two / "empty").mkdir()
    listing = two / "both.csv"
    assert main(["--merge", *(word.format(two) for word in given), "--write-listing", str(listing)]) == 2
    assert message in capsys.readouterr().err and not listing.exists()

"""Pictures of an evaluation: which queries and identities they show, and that one failure leaves the others."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from processor.reports.pictures import (
    PICTURES,
    by_precision,
    identity_similarity,
    most_confused,
    remove_pictures,
    write_pictures,
    write_ranking_sheets,
)
from processor.testing.evaluation import Evaluation
from utils.biometric.verification import verify
from utils.images import AS_STORED
from utils.metrics import Features, evaluate
from utils.plots.projection import principal_axes
from utils.retrieval.search import Nearest

IDENTITIES = 5


class Looker(torch.nn.Module):
    """A model whose feature comes from the top left of the image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.image_encoder = torch.nn.Identity()
        self.inputs = frozenset()
        self.image_encoder.saliency_kind = "a corner"

    def saliency(self, batch):
        maps = torch.zeros(len(batch.images), 2, 2)
        maps[:, 0, 0] = 1
        return maps


class Items(list):
    """Images and the records they belong to."""

    def __init__(self, items, records):
        super().__init__(items)
        self.records = records * 2


@pytest.fixture
def world(tmp_path):
    """An evaluation of five identities with two queries and two gallery images each, on grey squares."""
    generator = torch.Generator().manual_seed(1)
    pids = torch.arange(IDENTITIES).repeat(2)
    features = torch.nn.functional.one_hot(pids, IDENTITIES) + 0.6 * torch.randn(10, IDENTITIES, generator=generator)
    other = torch.nn.functional.one_hot(pids, IDENTITIES) + 0.6 * torch.randn(10, IDENTITIES, generator=generator)
    query, gallery = (Features(f, pids, torch.zeros(10)) for f in (features, other))
    path = tmp_path / "grey.png"
    Image.new("RGB", (20, 20), (90, 90, 90)).save(path)
    records = [SimpleNamespace(path=str(path), pid=int(pid), camid=0) for pid in pids]
    dataset = SimpleNamespace(
        query=records,
        gallery=records,
        camera_rule="none",
        test_identities=[f"person{i}" for i in range(IDENTITIES)],
        reading=AS_STORED,
    )
    evaluation = Evaluation(
        evaluate(query, gallery, camera_rule="none"), query, gallery, 0.0, verification=verify(query, gallery)
    )
    items = [{"images": torch.zeros(3, 4, 4), "labels": r.pid, "index": i} for i, r in enumerate(records * 2)]
    return evaluation, dataset, SimpleNamespace(dataset=Items(items, records), collate_fn=default_collate)


def test_all_pictures_are_written(world, tmp_path):
    evaluation, dataset, loader = world
    write_pictures(tmp_path / "pictures", evaluation, dataset, Looker(), loader, 0)
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    charts = {"cmc.png", "roc_det.png", "scores.png", "confused.png", "embedding.png", "attention.png"}
    assert names == charts | {f"rankings_{kind}.png" for kind in ("worst", "median", "random")}
    with Image.open(tmp_path / "pictures" / "attention.png") as sheet:
        first = np.asarray(sheet)[30 + 144 + 18 : 30 + 288, 10:154].astype(int)
    red_minus_blue = (first[..., 0] - first[..., 2])[::40, ::40]
    assert red_minus_blue[0, 0] > 50 > red_minus_blue[-1, -1], "yellow at the top left, dark blue elsewhere"


def test_one_picture_that_fails(world, tmp_path, caplog, monkeypatch):
    evaluation, dataset, loader = world
    dataset.query[0].path = str(tmp_path / "gone.png")
    write_pictures(tmp_path / "pictures", evaluation, dataset, Looker(), loader, 0)
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"cmc.png", "roc_det.png", "confused.png", "embedding.png"} <= names and "attention.png" not in names
    assert "picture attention left out" in caplog.text and "gone.png" in caplog.text


def test_ranking_sheets_show_the_queries_they_name(world, tmp_path, monkeypatch):
    evaluation, dataset, _ = world
    shown, titles = {}, []
    monkeypatch.setattr(
        "processor.reports.pictures.ranking_sheet",
        lambda rankings, title, reading: (
            titles.append(title) or shown.update({title.split()[1]: rankings}) or Image.new("RGB", (1, 1))
        ),
    )
    monkeypatch.setattr("processor.reports.pictures.SHOWN_QUERIES", 4)
    write_ranking_sheets(tmp_path, evaluation, dataset, 3)
    precision = np.sort(evaluation.metrics.average_precision)
    assert [r.average_precision for r in shown["worst"]] == precision[:4].tolist()
    assert sorted(r.average_precision for r in shown["median"]) == precision[3:7].tolist()
    assert len(shown["random"]) == 4
    assert [title for title in titles if "average precision" not in title] == [
        "4 random queries of 10, best first; ten nearest each; numbers: squared Euclidean distance"
    ]
    assert len(by_precision(evaluation)) == 10


def test_one_image_of_one_identity(world, tmp_path, monkeypatch, caplog):
    evaluation, dataset, loader = world
    one = {part: getattr(evaluation, part) for part in ("query", "gallery")}
    one = {part: Features(f.features[:1], f.pids[:1], f.camids[:1]) for part, f in one.items()}
    drawn = {}
    monkeypatch.setattr("processor.reports.pictures.cmc_chart", lambda cmc, *_: drawn.update(cmc=cmc))
    monkeypatch.setattr("processor.reports.pictures.save_figure", lambda figure, path: None)
    evaluation = replace(evaluation, metrics=evaluate(**one, camera_rule="none"), **one)
    write_pictures(tmp_path, evaluation, dataset, Looker(), loader, 0)
    assert drawn["cmc"].tolist() == [1.0], "it ends where the gallery does"
    assert "picture confused left out" in caplog.text and "one identity" in caplog.text


def test_an_approximate_search_reports_its_recall(world, tmp_path, monkeypatch):
    evaluation, dataset, _ = world
    seen = {}
    monkeypatch.setattr(
        "processor.reports.pictures.ranking_sheet",
        lambda rankings, title, reading: seen.update({title: rankings}) or Image.new("RGB", (1, 1)),
    )
    index = torch.tensor([[3, 1, -1]]).repeat(10, 1)  # only two were found
    found = replace(evaluation, nearest=Nearest(torch.rand(10, 3), index, 0.875))
    write_ranking_sheets(tmp_path, found, dataset, 3)
    write_ranking_sheets(tmp_path, evaluation, dataset, 3)
    approximate, exact = list(seen.items())[:3], list(seen.items())[3:]
    assert all("approximate search, recall 0.875" in title for title, _ in approximate)
    assert all([a.identity for a in r.answers] == ["person3", "person1"] for _, rows in approximate for r in rows)
    assert len(exact) == 3 and not any("recall" in title for title, _ in exact)


def test_similarity_of_identities_is_the_mean_over_all_pairs(world):
    evaluation, _, _ = world
    query, gallery = (
        torch.nn.functional.normalize(f.features.double()) for f in (evaluation.query, evaluation.gallery)
    )
    found, identities = identity_similarity(evaluation)
    assert identities.tolist() == list(range(IDENTITIES))
    for a in range(IDENTITIES):
        for b in range(IDENTITIES):
            pairs = [float(q @ g) for q in query[a::IDENTITIES] for g in gallery[b::IDENTITIES]]
            assert float(found[a, b]) == pytest.approx(sum(pairs) / 4, abs=1e-6)


def test_most_confused():
    similarity = torch.eye(6)
    similarity[4, 1] = 0.9
    similarity[2, 5] = 0.8
    similarity[0, 1] = 0.7
    assert sorted(most_confused(similarity, 4)) == [1, 2, 4, 5]
    assert sorted(most_confused(similarity, 5)) == [0, 1, 2, 4, 5]
    assert sorted(most_confused(similarity, 99)) == [0, 1, 2, 3, 4, 5]
    assert sorted(most_confused(torch.eye(2), 12)) == [0, 1]


def test_principal_axes():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)) * [5, 1, 0.1] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    found, name = principal_axes(torch.tensor(points))
    values, vectors = np.linalg.eigh(np.cov(points.T))
    assert np.allclose(np.abs((points - points.mean(0)) @ vectors[:, [2, 1]]), np.abs(found), atol=1e-8)
    assert f"{values[1:].sum() / values.sum():.0%}" in name
    assert principal_axes(torch.ones(3, 4))[0].tolist() == [[0, 0]] * 3


def test_a_thin_picture_is_drawn_with_the_others(world, tmp_path, caplog):
    evaluation, dataset, loader = world
    thin = tmp_path / "thin.png"
    Image.new("RGB", (600, 1)).save(thin)
    dataset.query[0].path = str(thin)
    loader.dataset.records[0].path = str(thin)
    write_pictures(tmp_path / "pictures", evaluation, dataset, Looker(), loader, 0)
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == set(PICTURES)
    assert (tmp_path / "ranking.png").is_file() and "left out" not in caplog.text


def test_a_picture_that_cannot_be_drawn_is_named_and_the_sheet_is_drawn(world, tmp_path, caplog):
    evaluation, dataset, loader = world
    dataset.query[0] = SimpleNamespace(path=str(tmp_path / "gone.png"), pid=0, camid=0)
    write_pictures(tmp_path / "pictures", evaluation, dataset, Looker(), loader, 0)
    written = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert set(PICTURES) - written <= {"attention"}
    assert "a picture is left out" in caplog.text and "gone.png" in caplog.text


@pytest.mark.parametrize("error", [ValueError("height and width must be > 0"), ZeroDivisionError(), MemoryError()])
def test_whatever_a_drawing_raises_the_others_are_drawn(world, tmp_path, caplog, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("processor.reports.pictures.ranking_sheet", fail)
    evaluation, dataset, loader = world
    write_pictures(tmp_path / "pictures", evaluation, dataset, Looker(), loader, 0)
    written = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert written == {name for name in PICTURES if not name.startswith("rankings")}
    assert f"picture ranking left out: {type(error).__name__}" in caplog.text


@pytest.mark.parametrize("suffix", ["", "_test"])
def test_without_pictures_those_of_an_earlier_test_are_removed_and_nothing_else(tmp_path, suffix):
    folder = tmp_path / f"pictures{suffix}"
    folder.mkdir()
    drawn = [tmp_path / f"ranking{suffix}.png", *(folder / f"{name}.png" for name in PICTURES)]
    kept = [tmp_path / "curves.png", folder / "mine.png", tmp_path / ("ranking.png" if suffix else "ranking_test.png")]
    for path in (*drawn, *kept):
        path.write_bytes(b"")
    remove_pictures(folder)
    assert not any(path.exists() for path in drawn) and all(path.exists() for path in kept)
    remove_pictures(folder)


def test_a_ranking_names_its_measure_and_the_first_right_rank(world, tmp_path, monkeypatch):
    evaluation, dataset, _ = world
    seen = {}
    monkeypatch.setattr(
        "processor.reports.pictures.ranking_sheet",
        lambda rankings, title, reading: seen.update({title: rankings}) or Image.new("RGB", (1, 1)),
    )
    metrics = evaluate(evaluation.query, evaluation.gallery, camera_rule="none", metric="cosine")
    found = replace(evaluation, metric="cosine", metrics=metrics)
    for shown in (found, replace(found, nearest=found.find_nearest(range(10)))):
        write_ranking_sheets(tmp_path, shown, dataset, 3)
    titles = list(seen)
    assert all("numbers: cosine distance" in title for title in titles[:3])
    assert all("numbers: re-ranked distance" in title for title in titles[3:])
    for ranking in seen[titles[0]]:
        hits = [rank for rank, answer in enumerate(ranking.answers, 1) if answer.correct]
        assert ranking.first_right == hits[0]

"""A trained model used on loose images: embedding, extraction with resume, search and its threshold."""

import csv
import dataclasses
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from configs import load_config
from datasets import make_dataloader, make_dataset
from datasets.caches.image_cache import Reader
from datasets.reading.pictures import Preparation
from model import DataFacts, make_model, make_test_model
from processor import Embedder, extract, load_embedder
from processor.extract import Listed, list_folder
from processor.search.answers import Answer, search
from processor.search.command import main as search_command
from processor.search.formats import as_csv, as_html, as_json, as_text
from processor.search.thresholds import Threshold, calibrate, measure_far
from processor.testing.evaluation import extract_features
from tests.toy_hands import make_toy_hands, write_config
from tests.utils.console.test_folder_lock import HOLDER, ROOT
from utils.compute.device import choose_precision
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.images import Reading

AS_IT_IS = Preparation(transforms.Compose([transforms.ToTensor(), transforms.Normalize([0] * 3, [1] * 3)]))
"""Pictures keep their size."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A configuration, a checkpoint of random weights for it, and the folder of its hands."""
    base = tmp_path_factory.mktemp("embedder")
    hands = make_toy_hands(base / "hands")
    file = write_config(hands, base / "run")
    cfg, _ = load_config(file)
    torch.manual_seed(0)
    weight = base / "model.pth"
    torch.save(make_model(cfg, DataFacts(6, 1, 1, sentence="A photo of a {} hand.")).checkpoint(), weight)
    return file, weight, hands


def expected_features(file, weight, precision="fp32"):
    """Features of the query images as the evaluation computes them."""
    cfg, _ = load_config(file, ["TEST.WEIGHT", str(weight)])
    dataset = make_dataset(cfg, require_train=False)
    found = extract_features(
        make_test_model(cfg, DataFacts(1, views=1)),
        make_dataloader(cfg, dataset).test,
        choose_precision(precision, torch.device("cpu")),
    )
    paths = [record.path for record in (*dataset.query, *dataset.gallery)]
    return paths, torch.nn.functional.normalize(found.features).numpy()


def test_features_are_those_of_the_evaluation(model, caplog):
    caplog.set_level(logging.INFO, LOGGER.name)
    file, weight, _ = model
    paths, expected = expected_features(file, weight)
    caplog.clear()
    found = load_embedder(file, weight).embed(paths)
    assert caplog.messages[0].startswith(f"{weight} is read\n") and "tested" not in caplog.text
    assert found.dtype == np.float32 and np.allclose(found, expected, atol=1e-5)
    assert np.allclose(
        load_embedder(file, weight, ["TEST.IMS_PER_BATCH", "3"]).embed(paths[::-1]), expected[::-1], atol=1e-5
    )


def test_features_in_bfloat16_are_those_of_the_evaluation_in_bfloat16(model):
    file, weight, _ = model
    paths, exact = expected_features(file, weight)
    _, expected = expected_features(file, weight, "bf16")
    found = load_embedder(file, weight, ["TEST.PRECISION", "bf16"]).embed(paths)
    assert found.dtype == np.float32 and np.allclose(found, expected, atol=1e-5)
    assert 1e-4 < np.abs(found - exact).max() < 0.1  # eight bits of a number, unit vectors


def test_photos_are_read_as_the_evaluation_reads_them(model, tmp_path):
    file, weight, _ = model
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (75, 100, 3), dtype=np.uint8))
    photo.resize((1600, 1200), Image.Resampling.NEAREST).save(tmp_path / "photo.jpg")
    embedders = [load_embedder(file, weight, ["INPUT.JPEG_DRAFT", draft]) for draft in ("True", "False")]
    for draft, embedder in zip((True, False), embedders, strict=True):
        picture = Reader((32, 32), "bilinear", draft=draft).read(tmp_path / "photo.jpg")
        expected = embedder.compute(embedder.prepare(picture)).numpy()
        assert np.array_equal(embedder.embed([tmp_path / "photo.jpg"]), expected)
    exact, fast = (embedder.embed([tmp_path / "photo.jpg"]) for embedder in embedders)
    assert not np.array_equal(exact, fast)


@pytest.mark.slow
def test_inputs_that_are_images(model, tmp_path, monkeypatch):
    """One path is one image; open pictures and arrays are as good as files."""
    file, weight, _ = model
    embedder = load_embedder(file, weight)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, array in zip(paths, pixels, strict=True):
        Image.fromarray(array).save(path)
    expected = embedder.embed(paths)
    assert expected.shape[0] == 2
    for images in (pixels, list(pixels), map(str, paths), (Image.open(path) for path in paths), [paths[0], pixels[1]]):
        assert np.array_equal(embedder.embed(images), expected)
    monkeypatch.setenv("HOME", str(tmp_path))
    for image in (paths[0], str(paths[0]), "~/0.png", pixels[0], Image.open(paths[0])):
        assert np.allclose(embedder.embed(image), expected[:1], atol=1e-6) and embedder.embed(image).shape[0] == 1
    grey = pixels[0, :, :, 0]
    assert np.array_equal(embedder.embed(grey), embedder.embed(np.repeat(grey[..., None], 3, axis=2)))
    for nothing in ([], iter(()), np.zeros((0, 4, 4, 3), np.uint8)):
        found = embedder.embed(nothing)
        assert found.shape == (0, expected.shape[1]) and found.dtype == np.float32


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
@pytest.mark.parametrize("upright", [True, False])
def test_an_open_picture_is_turned_as_its_file(tmp_path, suffix, upright):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    embedder = Embedder(lambda images: images.to("cpu").flatten(1), AS_IT_IS, Reading(upright=upright))
    loaded = Image.open(path)
    if suffix != "tif":  # Pillow turns a TIFF when it is loaded
        loaded.load()
    for picture in (Image.open(path), loaded):
        assert np.array_equal(embedder.embed(picture), embedder.embed(path))


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 4, 3)), r"image 1: .* found an array \[4, 4, 3\] of float64"),
        (np.zeros((3, 8, 9), np.uint8), r"an array \[3, 8, 9\] of uint8.*channels last"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"an array \[4, 4, 4\] of uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"an array \[0, 4, 3\]"),
        (torch.zeros(1, 3, 4, 4), r"found a Tensor"),
        (7, r"found a int"),
        ([None], r"found a NoneType"),
        (["a.jpg", b"a.jpg"], r"image 2: .*found a bytes"),
    ],
)
def test_inputs_that_are_no_images(image, found):
    embedder = Embedder(lambda images: images.to("cpu"), AS_IT_IS)
    with pytest.raises(ReIDError, match=found) as caught:
        embedder.embed(image)
    assert len(str(caught.value)) < 300, "arrays are not printed"


def test_onnx_gives_the_same(model, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"SKIPPED: {package} is not installed (requirements-extra.txt)")
    from model.export import main as export

    file, weight, _ = model
    output = tmp_path / "model.onnx"
    assert export(["--config_file", str(file), "--output", str(output), "TEST.WEIGHT", str(weight)]) == 0
    paths, expected = expected_features(file, weight)
    assert np.allclose(load_embedder(file, output).embed(paths), expected, atol=1e-4)
    with pytest.raises(ReIDError, match="SIZE_TEST"):
        load_embedder(file, output, ["INPUT.SIZE_TRAIN", "[48, 48]", "INPUT.SIZE_TEST", "[48, 48]"])
    with pytest.raises(ReIDError, match="no such file"):
        load_embedder(file, tmp_path / "gone.onnx")


def test_user_mistakes(model, tmp_path):
    file, weight, _ = model
    with pytest.raises(ReIDError, match=r"gone\.png: .*no such file\). Repair it, correct its name or leave it out\.$"):
        load_embedder(file, weight).embed([tmp_path / "gone.png"])
    for folder, found in ((weight.parent, f"a checkpoint in it, such as {weight}"), (tmp_path, "a checkpoint")):
        with pytest.raises(ReIDError, match=rf"TEST\.WEIGHT = '{folder}': this is a folder. Name {found}\.$"):
            load_embedder(file, folder)
    with pytest.raises(ReIDError, match="no such folder"):
        list_folder(tmp_path / "gone")
    with pytest.raises(ReIDError, match="no images found"):
        list_folder(tmp_path)


def counting(seen):
    """An embedder that records which images it computed; a feature is the image's mean colour."""

    def compute(pictures):
        images = 255 * pictures.to("cpu")
        seen.extend(images[:, 0, 0, 0].round().tolist())
        return images.mean((2, 3))

    return Embedder(compute, AS_IT_IS, batch_size=4)


def test_an_interrupted_extraction_resumes(model, tmp_path, monkeypatch):
    _, _, hands = model
    monkeypatch.setattr("processor.extract.SAVE_EVERY", 1000)
    whole, listed = extract.extract(counting(every := []), hands / "train", tmp_path / "whole", "a")
    assert len(listed) == len(whole) == len(every) == 24 and isinstance(whole, np.memmap)
    stops = iter([None, None, None, KeyboardInterrupt])

    def stop(place):
        if (error := next(stops)) is not None:
            raise error

    monkeypatch.setattr("processor.embedder.check_interrupt", stop)
    with pytest.raises(KeyboardInterrupt):
        extract.extract(counting(first := []), hands / "train", tmp_path / "parts", "a")
    monkeypatch.setattr("processor.embedder.check_interrupt", lambda place: None)
    found, _ = extract.extract(counting(second := []), hands / "train", tmp_path / "parts", "a")
    assert len(first) == 12 and len(second) == 12 and np.array_equal(found, whole)
    extract.extract(counting(third := []), hands / "train", tmp_path / "parts", "a")
    assert not third
    extract.extract(counting(other := []), hands / "train", tmp_path / "parts", "other weights")
    assert len(other) == 24


def stamp(folder, colours):
    """Photos of one colour each; all files have one size and, within the clock's resolution, one time."""
    folder.mkdir(exist_ok=True)
    for number, colour in enumerate(colours):
        Image.new("RGB", (4, 4), (colour, 0, 0)).save(folder / f"{number}.bmp")
    return folder


def test_a_photo_that_is_overwritten_is_noticed(tmp_path):
    photos = stamp(tmp_path / "photos", [10, 20])
    before = np.array(extract.extract(counting([]), photos, tmp_path / "out", "a")[0])
    first = (photos / "0.bmp").stat()
    stamp(photos, [30])
    os.utime(photos / "0.bmp", ns=(first.st_atime_ns, first.st_mtime_ns + 10**9))
    assert (photos / "0.bmp").stat().st_size == first.st_size
    after, _ = extract.extract(counting([]), photos, tmp_path / "out", "a")
    assert before[:, 0].tolist() == [10, 20] and after[:, 0].tolist() == [30, 20]


def test_features_in_use_stay_what_they_were(tmp_path):
    one, other = stamp(tmp_path / "one", range(9)), stamp(tmp_path / "other", [200])
    mapped, _ = extract.extract(counting([]), one, tmp_path / "out", "a")
    replaced, _ = extract.extract(counting([]), other, tmp_path / "out", "a")
    assert mapped[:, 0].tolist() == list(range(9)) and replaced[:, 0].tolist() == [200]
    assert (tmp_path / "out" / "listing.csv").read_text() == "row,path,identity\n0,0.bmp,0\n"


def test_while_one_command_writes_others_may_only_read(tmp_path):
    photos, output = stamp(tmp_path / "photos", [10, 20]), tmp_path / "out"
    extract.extract(counting([]), photos, output, "a")
    with subprocess.Popen([sys.executable, "-c", HOLDER, output], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        child = int(other.stdout.readline())
        assert extract.extract(counting([]), photos, output, "a")[0][:, 0].tolist() == [10, 20]
        with pytest.raises(ReIDError, match=rf"an extraction or a search is writing there \(process {other.pid}\)"):
            extract.extract(counting([]), photos, output, "other weights")
        other.kill()
        os.kill(child, signal.SIGKILL)
    assert extract.extract(counting([]), photos, output, "a")[0][:, 0].tolist() == [10, 20]


def test_a_kill_while_starting_over_leaves_no_state_of_other_features(tmp_path, monkeypatch):
    photos, output = stamp(tmp_path / "photos", [10, 20]), tmp_path / "out"

    def features(source):
        embedder = counting([])
        scaled = dataclasses.replace(embedder, compute=lambda images: embedder.compute(images) * len(source))
        return extract.extract(scaled, photos, output, source)[0][:, 0].tolist()

    assert features("a") == [10, 20]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(extract, "save_json", mock.Mock(side_effect=KeyboardInterrupt))
        features("bb")
    assert features("a") == [10, 20]
    assert features("bb") == [20, 40]


def test_a_kill_at_the_very_end_keeps_all_features(tmp_path):
    photos, output = stamp(tmp_path / "photos", [10, 20]), tmp_path / "out"
    extract.extract(counting([]), photos, output, "a")
    (output / "features.npy").rename(output / "features.npy.part")
    found, _ = extract.extract(counting(seen := []), photos, output, "a")
    assert not seen and found[:, 0].tolist() == [10, 20]
    assert sorted(p.name for p in output.iterdir()) == ["extract.json", "features.npy", "listing.csv", "run.lock"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["features.npy", "features.npy.part", "extract.json"])
@pytest.mark.parametrize("what", ["pipe", "other width", "loop"])
def test_files_of_an_output_that_this_command_did_not_write(tmp_path, name, what):
    photos, output = stamp(tmp_path / "photos", [10, 20, 30, 40, 50]), tmp_path / "out"
    extract.extract(counting([]), photos, output, "a")
    state = json.loads((output / "extract.json").read_text())
    done = len(list_folder(photos)) if name == "features.npy" else 1
    (output / "extract.json").write_text(json.dumps(state | {"done": done}))
    (output / name).unlink(missing_ok=True)
    if what == "other width" and name != "extract.json":
        np.save((output / name).open("wb"), np.zeros((4, 3) if name == "features.npy" else (5, 7), np.float32))
    elif what == "loop":
        (output / name).symlink_to(output / name)
    else:
        os.mkfifo(output / name)
    found, _ = extract.extract(counting(seen := []), photos, output, "a")
    assert found[:, 0].tolist() == [10, 20, 30, 40, 50] and len(seen) >= 5
    assert json.loads((output / "extract.json").read_text()) == state


def test_extract_command(model, tmp_path):
    file, weight, hands = model
    arguments = ["--config_file", str(file), "--images", str(hands / "test" / "query"), "--output", str(tmp_path)]
    assert extract.main([*arguments, "TEST.WEIGHT", str(weight)]) == 0
    rows = list(csv.DictReader((tmp_path / "listing.csv").open()))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    paths = [hands / "test" / "query" / row["path"] for row in rows]
    assert [int(row["row"]) for row in rows] == list(range(8)) and rows[0]["identity"].startswith("person")
    assert np.allclose(features, load_embedder(file, weight).embed(paths), atol=1e-6)
    assert extract.main(arguments) == 2


def test_identities_from_names(tmp_path):
    for name in ("b/x/1.jpg", "a/2.PNG", "c_1.jpg", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_folder(tmp_path) == [Listed("a/2.PNG", "a"), Listed("b/x/1.jpg", "b"), Listed("c_1.jpg", "c")]


def test_search_against_a_full_sort():
    """One answer per person, from the best of the person's images, even if many of another's are nearer."""
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(12, 5)).astype(np.float32)
    gallery[:6] = query[0] + 0.01 * rng.normal(size=(6, 5))  # six images of p0 are nearer to x than any other
    listed = [Listed(f"{i}.png", "p0" if i < 6 else f"p{i % 4}") for i in range(12)]
    found = search(query, ["x", "y", "z"], gallery, listed, 3, threshold=Threshold(0.2, 0.01))
    for row, name in enumerate("xyz"):
        cosines = [float(query[row] @ g / np.linalg.norm(query[row]) / np.linalg.norm(g)) for g in gallery]
        people = {
            p: max((i for i in range(12) if listed[i].identity == p), key=cosines.__getitem__)
            for p in ("p0", "p1", "p2", "p3")
        }
        best = sorted(people.values(), key=lambda i: -cosines[i])[:3]
        own = [answer for answer in found if answer.query == name]
        assert [a.image for a in own] == [f"{i}.png" for i in best] and [a.rank for a in own] == [1, 2, 3]
        assert [a.identity for a in own] == [listed[i].identity for i in best]
        assert [a.similarity for a in own] == pytest.approx([cosines[i] for i in best], abs=1e-6)
        assert [a.accepted for a in own] == ["yes" if cosines[i] >= 0.2 else "no" for i in best]
        assert [a.gallery_far for a in own] == pytest.approx([1 - 0.99**12] * 3)


def test_a_query_of_a_person_who_is_not_enrolled():
    gallery, listed = np.eye(3, dtype=np.float32), [Listed(f"{i}.png", f"p{i}") for i in range(3)]
    query = np.array([[1, 0.1, 0], [-1, -1, -0.5]], np.float32)
    found = search(query, ["known", "new"], gallery, listed, 2, threshold=Threshold(0.5, 0.1))
    assert [a.verdict for a in found] == ["p0", "p0", "not enrolled", "not enrolled"]
    text = as_text(found).splitlines()
    assert text[-3:-1] == ["verdict on known: p0", "verdict on new: not enrolled"]
    assert text[-1].endswith("about 27.10%"), "1 - 0.9^3"
    assert "verdict" not in text[0] and "gallery_far" not in text[0]
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert rows[2]["verdict"] == "not enrolled" and float(rows[2]["gallery_far"]) == pytest.approx(0.271)
    assert json.loads(as_json(found))[2]["verdict"] == "not enrolled"
    silent = as_text(search(query, ["known", "new"], gallery, listed, 2))
    assert "verdict" not in silent and "probability" not in silent


def test_rate_of_a_given_threshold_against_counting():
    rng = np.random.default_rng(2)
    gallery = rng.normal(size=(40, 4)).astype(np.float32)
    listed = [Listed(f"{i}", f"p{i % 5}") for i in range(40)]
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    impostors = np.array([float(unit[a] @ unit[b]) for a in range(40) for b in range(a) if a % 5 != b % 5])
    assert measure_far(gallery, listed, 0.8) == pytest.approx((impostors >= 0.8).mean()) and (impostors >= 0.8).any()
    assert measure_far(gallery, listed, 1.0) is None and measure_far(gallery, [listed[0]] * 40, 0.5) is None
    for wrong in (1.5, float("nan")):
        with pytest.raises(ReIDError, match=r"--threshold .*-1 to 1"):
            measure_far(gallery, listed, wrong)


def test_approximate_search_gives_what_it_finds_and_reports_its_recall(caplog):
    caplog.set_level(logging.INFO, LOGGER.name)
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32)
    listed = [Listed(f"{i}.png", f"p{i % 3}") for i in range(9)]
    exact, near = (
        search(query, ["x", "y", "z"], gallery, listed, 20, how=how) for how in ("exact", "faiss")
    )  # nine images are one cell: all are compared
    assert [a.image for a in near] == [a.image for a in exact] and len(near) == 9
    assert [a.similarity for a in near] == pytest.approx([a.similarity for a in exact], abs=1e-6)
    assert "100.0 % of the nearest" in caplog.text


def test_threshold_against_counting():
    rng = np.random.default_rng(1)
    gallery = rng.normal(size=(60, 4)).astype(np.float32)
    listed = [Listed(f"{i}", f"p{i % 6}") for i in range(60)]
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    pairs = [(a, b) for a in range(60) for b in range(a) if a % 6 != b % 6]
    impostors = np.sort([float(unit[a] @ unit[b]) for a, b in pairs])
    for far in (0.01, 0.1):
        threshold = calibrate(gallery, listed, far)
        assert (impostors >= threshold).mean() <= far + 1e-9
        assert (impostors >= threshold - 1e-3).mean() >= far - 0.005, "and hardly less"
    with pytest.raises(ReIDError, match="1,500 pairs of different people and 10,000"):
        calibrate(gallery, listed, 0.001)
    with pytest.raises(ReIDError, match="between 0 and 1"):
        calibrate(gallery, listed, 1)


def test_formats(model):
    _, _, hands = model
    gallery = hands / "test" / "gallery"
    image = list_folder(gallery)[0].name
    answers = [Answer(str(gallery / image), 1, "p <1>", 0.5, "yes", image)]
    answers.append(answers[0]._replace(rank=2, accepted="no"))
    assert list(csv.DictReader(io.StringIO(as_csv(answers))))[1]["accepted"] == "no"
    assert json.loads(as_json(answers)) == [a._asdict() for a in answers]
    assert [line.split()[-2] for line in as_text(answers).splitlines()] == ["accepted", "yes", "no"]
    assert "accepted" not in as_text([answers[0]._replace(accepted="")])
    text = as_html(answers, gallery)
    assert str(gallery) not in text and f"query {Path(image).parent.name}/{Path(image).name}" in text
    assert text.count("<img") == 3 and text.count("p &lt;1&gt;") >= 4 and "http" not in text
    assert "Verdict" not in text
    text = as_html([answer._replace(verdict="not enrolled", gallery_far=0.5) for answer in answers], gallery)
    assert text.count("Verdict: <b>not enrolled</b>") == 1 and "about 50.00%" in text


def test_names_that_are_no_text_or_steer_terminals(model, tmp_path, capsys):
    file, weight, hands = model
    gallery = hands / "test" / "gallery"
    asked = tmp_path / "a\udcff\x1b[2J.png"
    try:
        shutil.copy(next(gallery.rglob("*.png")), asked)
    except OSError:
        pytest.skip("this file system has no such names")
    command = ["--config_file", str(file), "--gallery", str(gallery), "--queries", str(asked), "--top", "2"]
    command += ["--enrolled", str(tmp_path / "enrolled"), "TEST.WEIGHT", str(weight)]
    said = {}
    for form in ("text", "csv", "json"):
        assert search_command([*command, "--format", form]) == 0
        said[form] = capsys.readouterr().out
    head, *rows = said["text"].splitlines()
    assert [row.index("person") for row in rows] == [head.index("identity")] * 2
    assert all(row.startswith(f"{tmp_path}/a\\udcff\\x1b[2J.png") for row in rows)
    assert "a\\udcff\x1b[2J.png" in said["csv"] and json.loads(said["json"])[0]["query"] == str(asked)


def test_search_command(model, tmp_path, capsys):
    file, weight, hands = model
    gallery = hands / "test" / "gallery"
    asked = next(gallery.rglob("*.png"))
    command = ["--config_file", str(file), "--gallery", str(gallery), "--queries", str(asked), "--top", "3"]
    command += ["--enrolled", str(tmp_path / "enrolled"), "TEST.WEIGHT", str(weight)]
    assert search_command([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 3 and rows[0]["image"] == asked.relative_to(gallery).as_posix()
    assert float(rows[0]["similarity"]) == pytest.approx(1, abs=1e-5) and rows[0]["identity"] == asked.parent.name
    assert search_command([*command, "--format", "html", "--output", str(tmp_path / "sheet.html")]) == 0
    assert (tmp_path / "sheet.html").read_text().count("<img") == 4
    for wrong, message in {
        "--format html": "--output",
        "--top 0": "at least 1",
        "--threshold 2": "-1 to 1",
        "--far 0.01": "pairs of different",
    }.items():
        assert search_command([*command, *wrong.split()]) == 2
        said = capsys.readouterr().err
        assert message in said
    (rate,) = re.findall(r"choose a rate of ([\d.]+) or more", said)
    assert search_command([*command, "--far", rate]) == 0, "what is advised works"
    assert "verdict on " in capsys.readouterr().out
    assert search_command([*command, "--threshold", "0.5"]) == 0
    said = capsys.readouterr()
    assert f"verdict on {asked}: {asked.parent.name}\n" in said.out
    assert "accepted at a similarity of 0.5000 or more" in said.err + said.out

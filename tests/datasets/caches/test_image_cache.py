"""Cached pictures: the same batches bit for bit, for any workers and processes, and never those of an older file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets import make_dataloader, make_dataset
from datasets.bases import Record
from datasets.caches.image_cache import ImageCache, Reader
from datasets.caches.record_cache import DIGEST
from datasets.preprocessing import test_transform as plain_transform
from datasets.reading.images import ImageDataset
from datasets.reading.pictures import collate
from tests.datasets.pictures import hand_config, pixels, plant_hands, save, tensors
from utils.errors import ReIDError
from utils.images import Reading, read_image

READER = Reader((12, 10), "bicubic")
PLAIN = plain_transform((12, 10), [0.5] * 3, [0.5] * 3)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path):
    return plant_hands(tmp_path / "hands")


@pytest.fixture
def paths(tmp_path):
    return [save(tmp_path / f"{i}.png", pixels(i, 40, 30)) for i in range(5)]


@pytest.fixture(params=["ram", "disk"])
def folder(request, tmp_path):
    return tmp_path / "cache" if request.param == "disk" else None


@pytest.fixture
def decoded(monkeypatch):
    """Paths in the order in which they were decoded."""
    seen = []

    def spy(path, *options, **more):
        seen.append(path)
        return read_image(path, *options, **more)

    monkeypatch.setattr("datasets.caches.image_cache.read_image", spy)
    return seen


def resized(path):
    """Pillow alone."""
    return np.asarray(Image.open(path).convert("RGB").resize((10, 12), Image.Resampling.BICUBIC))


def all_batches(root, *options):
    loaders = make_dataloader(cfg := hand_config(root, *options), make_dataset(cfg))
    found = []
    for epoch in (1, 2, 3):
        batches = loaders.augmented(2)
        batches.batch_sampler.set_epoch(epoch)
        found += [tensor for batch in batches for tensor in tensors(batch)]
    return found + [
        t for _ in range(2) for name in ("plain", "test") for b in getattr(loaders, name) for t in tensors(b)
    ]


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_batches_are_bit_identical_with_and_without(root, tmp_path, cache, workers, monkeypatch):
    monkeypatch.setattr("datasets.reading.workers.usable_cores", lambda: 2)
    plain = all_batches(root, "DATASETS.CACHE", "none")
    options = ("DATASETS.CACHE", cache, "DATASETS.CACHE_DIR", str(tmp_path / "kept"), "DATALOADER.NUM_WORKERS", workers)
    for _ in range(2):  # the second run finds what the first one left on disk
        cached = all_batches(root, *options)
        assert len(plain) == len(cached) and all(torch.equal(a, b) for a, b in zip(plain, cached, strict=True))


def test_each_picture_is_decoded_once(paths, folder, decoded):
    cache = ImageCache(READER, paths, 10**6, folder)
    for _ in range(3):
        assert all(np.array_equal(np.asarray(cache.read(path)), resized(path)) for path in paths)
    assert decoded == paths


def test_workers_share_what_any_of_them_decoded(paths, folder, decoded):
    cache = ImageCache(READER, paths, 10**6, folder)
    data = ImageDataset([Record(path, 0, 0, 0) for path in paths], PLAIN, read=cache.read)
    list(DataLoader(data, num_workers=2, collate_fn=collate))  # these decode in processes of their own
    for path in paths:
        assert np.array_equal(np.asarray(cache.read(path)), resized(path))
    assert not decoded


def test_workers_that_are_not_forked_share_too(paths, folder, decoded):
    cache = ImageCache(READER, paths, 10**6, folder)
    data = ImageDataset([Record(path, 0, 0, 0) for path in paths], PLAIN, read=cache.read)
    list(DataLoader(data, num_workers=1, collate_fn=collate, multiprocessing_context="spawn"))
    assert [cache.read(path).size for path in paths] == [(10, 12)] * 5 and not decoded


@pytest.mark.parametrize("touch", [True, False])
def test_a_changed_file_is_read_again(paths, folder, decoded, touch):
    cache = ImageCache(READER, paths, 10**6, folder)
    cache.read(paths[0])
    before = Path(paths[0]).stat()
    save(paths[0], pixels(99, 40, 30) if touch else pixels(99, 50, 50))
    if not touch:  # the same time, another size
        os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert np.array_equal(np.asarray(cache.read(paths[0])), resized(paths[0]))
    assert decoded == [paths[0]] * 2


@pytest.mark.parametrize(
    "other",
    [
        Reader((12, 10), "bilinear"),
        Reader((10, 12), "bicubic"),
        Reader((12, 10), "bicubic", Reading(white=4095)),
        Reader((12, 10), "bicubic", fit="crop"),
        Reader((12, 10), "bicubic", fit="letterbox"),
    ],
)
def test_another_way_of_reading_has_its_own_cache(paths, tmp_path, decoded, other):
    ImageCache(READER, paths, 10**6, tmp_path / "cache").read(paths[0])
    cache = ImageCache(other, paths, 10**6, tmp_path / "cache")
    assert np.array_equal(np.asarray(cache.read(paths[0])), np.asarray(other.read(paths[0])))
    assert cache.read(paths[0]).size == other.size[::-1]


def test_a_vanished_file_is_a_user_error_though_its_picture_is_kept(paths, folder):
    cache = ImageCache(READER, paths, 10**6, folder)
    cache.read(paths[0])
    Path(paths[0]).unlink()
    with pytest.raises(ReIDError, match="no such file"):
        cache.read(paths[0])


@pytest.mark.parametrize("damage", ["flip", "truncate", "torn"])
def test_a_damaged_record_is_decoded_again(paths, tmp_path, decoded, damage):
    cache = ImageCache(READER, paths, 10**6, tmp_path / "cache")
    for path in paths:
        cache.read(path)
    file = tmp_path / "cache" / cache.name
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        content = content[: cache.record * 2 + DIGEST + 50]
    elif damage == "flip":
        content[cache.record * 2 + 100] ^= 1
    else:  # the second half of the record was never written
        content[cache.record * 2 + 100 : cache.record * 3] = bytes(cache.record - 100)
    file.write_bytes(content)
    decoded.clear()
    assert np.array_equal(np.asarray(cache.read(paths[2])), resized(paths[2])) and decoded == [paths[2]]


def test_it_stays_within_its_budget(paths, folder, decoded):
    record = ImageCache(READER, paths, 0, folder).record
    cache = ImageCache(READER, paths, 2 * record + 7, folder)
    for _ in range(2):
        for path in paths:
            cache.read(path)
    assert cache.bytes == 2 * record == os.fstat(cache.file).st_size
    assert [decoded.count(path) for path in paths] == [1, 1, 2, 2, 2]


def test_a_full_disk_ends_caching_and_not_the_run(paths, folder, monkeypatch):
    cache = ImageCache(READER, paths, 10**6, folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    for _ in range(2):
        assert np.array_equal(np.asarray(cache.read(paths[0])), resized(paths[0]))


def test_caches_of_other_data_make_room(root, tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    folder.mkdir()
    for age, name in enumerate(("new", "old", "older")):
        (folder / f"{name}.images").write_bytes(bytes(40_000))
        os.utime(folder / f"{name}.images", (1e9 - age, 1e9 - age))
    (folder / "notes.txt").write_text("mine")
    monkeypatch.setattr("datasets.caches.image_cache.GIGABYTE", 80_000)  # 28 pictures of 16 x 16 take 21 of them
    options = ("DATASETS.CACHE", "disk", "DATASETS.CACHE_DIR", str(folder), "DATASETS.CACHE_GB", "1.0")
    all_batches(root, *options)
    assert {p.name for p in folder.iterdir()} >= {"new.images", "notes.txt"}
    assert not (folder / "old.images").exists() and not (folder / "older.images").exists()
    assert sum(p.stat().st_size for p in folder.glob("*.images")) <= 80_000


def test_a_folder_that_cannot_be_written_to_is_a_user_error(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReIDError, match=r"DATASETS\.CACHE_DIR"):
        all_batches(root, "DATASETS.CACHE", "disk", "DATASETS.CACHE_DIR", str(tmp_path / "file"))


FILL = """
import sys
from datasets.bases import Record
from datasets.caches.image_cache import ImageCache, Reader
from pathlib import Path
folder, *paths = sys.argv[1:]
for _ in range(40):
    cache = ImageCache(Reader((12, 10), "bicubic"), paths, 10**6, Path(folder))
    for path in paths:
        assert cache.read(path).tobytes() == Reader((12, 10), "bicubic").read(path).tobytes()
"""


def test_processes_that_fill_one_file_at_once(paths, tmp_path):
    command = [sys.executable, "-c", FILL, str(tmp_path / "cache"), *paths]
    assert [p.wait() for p in [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]] == [0, 0]


def test_draft_decodes_small_and_is_never_shared_with_exact(tmp_path, decoded):
    photo = np.asarray(Image.fromarray(pixels(3, 12, 16)).resize((1600, 1200), Image.Resampling.BICUBIC))
    path = save(tmp_path / "photo.jpg", photo, quality=95)
    assert read_image(path, at_least=256).size == (400, 300)
    exact, draft = Reader((256, 128), "bicubic"), Reader((256, 128), "bicubic", draft=True)
    difference = np.abs(np.asarray(exact.read(path), int) - np.asarray(draft.read(path), int))
    assert 0 < difference.mean() < 3  # close, and not the same: this is why it is a choice
    caches = [ImageCache(reader, [path], 10**6, tmp_path / "cache") for reader in (exact, draft)]
    assert caches[0].name != caches[1].name

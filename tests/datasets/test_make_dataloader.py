"""The three loaders: what they yield, the same for any number of workers, and how their errors end."""

import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datasets import add_fields, check_data, make_dataloader, make_dataset
from datasets.make_dataloader_clipreid import make_sampler
from datasets.reading.workers import num_workers
from datasets.sampler import PKBatchSampler, ShuffledBatches
from tests.datasets.pictures import TRAIN, hand_config, pixels, plant_hands, save, tensors, whole
from utils.console.command_line import run_script
from utils.errors import EXIT_STATUS, ReIDError
from utils.words import number_of


@pytest.fixture
def root(tmp_path):
    return plant_hands(tmp_path / "hands")


@pytest.fixture
def workers_allowed(monkeypatch):
    """Two workers even on a machine with one core."""
    monkeypatch.setattr("datasets.reading.workers.usable_cores", lambda: 2)


def loaders(root, *pairs, require_train=True):
    cfg = hand_config(root, *pairs)
    return make_dataloader(cfg, make_dataset(cfg, require_train=require_train))


def normalised(path_seed):
    mean, std = np.reshape([0.485, 0.456, 0.406], (3, 1, 1)), np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    return (pixels(path_seed).transpose(2, 0, 1) / 255 - mean) / std


def test_stage_1_reads_every_training_image_once_in_order_and_unchanged(root):
    images, pids, _, _, indices = whole(loaders(root).plain)
    assert pids.tolist() == [pid for pid, count in enumerate(TRAIN.values()) for _ in range(count)]
    assert indices.tolist() == list(range(11))
    for seed, image in enumerate(images):  # plant_hands numbers the pictures in this order
        assert np.abs(image.numpy() - normalised(seed)).max() < 1e-4


def test_the_test_loader_reads_queries_then_gallery(root):
    images, pids, camids, viewids, indices = whole(loaders(root).test)
    assert pids.tolist() == [0, 1, 0, 0, 1, 1] and indices.tolist() == list(range(6))
    assert camids.tolist() == viewids.tolist() == [0] * 6
    for seed, image in enumerate(images, 11):
        assert np.abs(image.numpy() - normalised(seed)).max() < 1e-4


def test_stage_2_batches_hold_what_the_sampler_planned(root):
    loader = loaders(root).augmented(2)
    for epoch in (1, 2, 3):
        loader.batch_sampler.set_epoch(epoch)
        planned = [[draw.index for draw in batch] for batch in loader.batch_sampler]
        batches = list(loader)
        assert [batch["index"].tolist() for batch in batches] == planned and planned
        records = loader.dataset.records
        for batch in batches:
            images, pids, camids, _, indices = tensors(batch)
            assert images.shape == (4, 3, 16, 16) and images.dtype == torch.float32
            assert pids.tolist() == [records[i].pid for i in indices]
            assert camids.tolist() == [records[i].camid for i in indices]
            assert pids[0] == pids[1] != pids[2] == pids[3]


def _all_batches(made):
    """Every tensor of two epochs of training, the features' images and the test."""
    found = []
    augmented = made.augmented(2)
    for epoch in (1, 2):
        augmented.batch_sampler.set_epoch(epoch)
        found += [tensor for batch in augmented for tensor in tensors(batch)]
    return found + [tensor for loader in (made.plain, made.test) for batch in loader for tensor in tensors(batch)]


@pytest.mark.parametrize("sampler", ["softmax", "softmax_triplet"])
def test_batches_are_bit_identical_with_any_number_of_workers(root, sampler, workers_allowed):
    alone, one, two = (
        _all_batches(loaders(root, "DATALOADER.SAMPLER", sampler, "DATALOADER.NUM_WORKERS", count)) for count in "012"
    )
    assert len(alone) == len(one) == len(two)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(alone, one, two, strict=True))


def test_an_epoch_can_be_repeated_and_epochs_differ(root):
    loader = loaders(root).augmented(2)

    def epoch(number):
        loader.batch_sampler.set_epoch(number)
        return torch.cat([batch["images"].to("cpu") for batch in loader])

    first, second = epoch(1), epoch(2)
    assert torch.equal(epoch(1), first)
    assert first.shape != second.shape or not torch.equal(first, second)


@pytest.mark.parametrize("count", ["0", "2"])
def test_loading_leaves_global_random_numbers_alone(root, count, workers_allowed):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    _all_batches(loaders(root, "DATALOADER.NUM_WORKERS", count))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_the_process_seed_does_not_matter_and_solver_seed_does(root):
    torch.manual_seed(1)
    first = _all_batches(loaders(root))
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, _all_batches(loaders(root)), strict=True))
    other = _all_batches(loaders(root, "SOLVER.SEED", "5"))
    assert not torch.equal(first[0], other[0])


def test_a_test_alone_reads_no_training_image(root):
    for picture in root.glob("train/*/*"):
        picture.write_text("broken")
    assert loaders(root, require_train=False)[:2] == (None, None)
    cfg = hand_config(root, "SOLVER.STAGE2.IMS_PER_BATCH", "64")  # too large a batch for four identities
    dataset = make_dataset(cfg, require_train=False)
    check_data(cfg, dataset)
    assert len(list(make_dataloader(cfg, dataset).test)) == 2


def test_samplers_by_name(root):
    kinds = {"softmax": ShuffledBatches, "softmax_triplet": PKBatchSampler, "triplet": PKBatchSampler}
    for name, kind in kinds.items():
        cfg = hand_config(root, "DATALOADER.SAMPLER", name)
        assert type(make_sampler(cfg, make_dataset(cfg), 8)) is kind


def test_one_is_no_plural():
    assert [number_of(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [number_of(n, "identity", "identities") for n in (1, 3)] == ["1 identity", "3 identities"]


def test_no_more_workers_than_cores(root, monkeypatch):
    cfg = hand_config(root, "DATALOADER.NUM_WORKERS", "5")
    for cores, expected in ((2, 2), (16, 5), (1, 1)):
        monkeypatch.setattr("datasets.reading.workers.usable_cores", lambda cores=cores: cores)
        assert num_workers(cfg) == expected


def test_notes_of_a_run_are_logged(root, caplog):
    cfg = hand_config(root)
    with caplog.at_level("INFO", "clipreid"):
        check_data(cfg, make_dataset(cfg))
    assert "hand: 11 training images of 4 identities, 2 query and 4 gallery images" in caplog.text
    assert "note: the gallery has 4 images" in caplog.text
    assert "one identity" not in caplog.text


@pytest.mark.parametrize("require_train", [True, False])
def test_a_gallery_of_one_identity_is_noted(root, caplog, require_train):
    shutil.rmtree(root / "test/gallery/yo")
    cfg = hand_config(root)
    with caplog.at_level("INFO", "clipreid"):
        check_data(cfg, make_dataset(cfg, require_train=require_train))
    assert "note: the gallery shows one identity only: every answer would be right" in caplog.text


def test_methods_that_follow_pixels_take_no_augmix(root):
    cfg = hand_config(root, "INPUT.AUGMIX_PROB", "0.6")
    for needed in ("keypoints", "geometry", "erased"):
        with pytest.raises(ReIDError, match=r"INPUT.AUGMIX_PROB = 0.6 with MODEL.METHOD = clipreid.*Set it to 0"):
            add_fields(cfg, make_dataset(cfg), {needed})
    add_fields(cfg, make_dataset(cfg), {"source"})
    add_fields(cfg, make_dataset(cfg, require_train=False), {"erased"})


# ------------------------------------------------------------------------------------ errors out of the workers
def _ends_with(script, capfd):
    """What the user reads when ``script`` fails."""
    assert run_script(script) == EXIT_STATUS
    return capfd.readouterr().err


@pytest.mark.parametrize("count", ["0", "2"])
@pytest.mark.parametrize("kind", ["plain", "augmented", "test"])
def test_a_file_that_vanishes_is_one_clean_message(root, capfd, kind, count, workers_allowed):
    loader = getattr(loaders(root, "DATALOADER.NUM_WORKERS", count), kind)
    loader = loader(2) if kind == "augmented" else loader
    lost = root / ("test/gallery/yo/g1.png" if kind == "test" else "train/cem/2.png")
    lost.unlink()

    def script():
        for epoch in range(1, 30):  # a PK epoch may leave the image out
            if kind == "augmented":
                loader.batch_sampler.set_epoch(epoch)
            list(loader)

    text = _ends_with(script, capfd)
    assert text.startswith(f"error: {lost}: cannot be read as an image (there is no such file).")
    assert len(text.splitlines()) == 1


class _Fails(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise ReIDError("a.png: broken\n  found: nothing\n  do this: mend it")


def test_messages_of_several_lines_come_through_whole(capfd):
    text = _ends_with(lambda: list(DataLoader(_Fails(), num_workers=2)), capfd)
    assert text == "error: a.png: broken\n  found: nothing\n  do this: mend it\n"


def test_a_file_that_spoils_during_the_run_is_named(root, capfd, workers_allowed):
    loader = loaders(root, "DATALOADER.NUM_WORKERS", "2").test
    (root / "test/query/xi/q.png").write_bytes(b"")
    text = _ends_with(lambda: list(loader), capfd)
    assert "xi/q.png: cannot be read as an image (the file is empty)" in text and "Traceback" not in text


def test_exif_is_a_key(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    save(root / "test/query/xi/q.png", pixels(11), exif=exif)
    lying, upright = (tensors(next(iter(loaders(root, "INPUT.EXIF", on).test)))[0][0] for on in ("False", "True"))
    assert torch.equal(upright, lying.flip(1, 2)) and not torch.equal(upright, lying)

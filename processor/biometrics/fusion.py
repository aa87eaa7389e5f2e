"""Fusion of a person's hands and fingers: what was learned from training people, applied to the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from processor.biometrics.setting import Section, Setting
from utils.biometric.confidence import bounded
from utils.biometric.error_rates import tally
from utils.biometric.pair_scores import score_blocks
from utils.biometric.scores.fusion import Fusion, fit_fusion
from utils.biometric.templates import choose_images, mean_features
from utils.biometric.verification import with_interval
from utils.errors import ReIDError
from utils.retrieval.features import Features
from utils.words import number_of

if TYPE_CHECKING:
    from datasets.bases import Record, ReIDDataset

PARTS = ("side", "hand", "finger")
"""Attributes that name a modality of a person."""


class Occasions(NamedTuple):
    """Comparisons of a person's probe occasion with an enrolled person.

    Attributes:
        scores: [O, P, K] by occasion, enrolled person and modality; NaN where a modality is missing.
        same: [O, P].
    """

    scores: np.ndarray
    same: np.ndarray


def fuse(setting: Setting) -> Section:
    """Each modality by itself, and all of them joined by ``TEST.FUSE``.

    Raises:
        ReIDError: the persons or the modalities are not known.
    """
    keys, dataset, training = setting.test, setting.dataset, setting.training
    modalities = modalities_of(dataset, [*dataset.query, *dataset.gallery])
    test = _occasions(dataset, modalities, setting.query, dataset.query, setting.gallery, dataset.gallery)
    enrolled, probes = _halves(training.records)
    parts = [_part(training.features, rows) for rows in (probes, enrolled)]
    records = [[training.records[i] for i in rows] for rows in (probes, enrolled)]
    train = _occasions(dataset, modalities, parts[0], records[0], parts[1], records[1])
    fitted = fit_fusion(train.scores.reshape(-1, len(modalities)), train.same.reshape(-1), keys.FUSE)
    record: dict[str, object] = {"modalities": list(modalities), "rule": keys.FUSE}
    table, lines = [("Persons enrolled / probe occasions", f"{test.same.shape[1]:,} / {len(test.same):,}")], []
    for k, name in enumerate(modalities):
        _add(f"{name} alone", test.scores[:, :, k], test.same, keys.FAR, record, table, lines)
    fused = fitted.fuse(test.scores.reshape(-1, len(modalities))).reshape(test.same.shape)
    _add(f"all {len(modalities)} fused", fused, test.same, keys.FAR, record, table, lines)
    return Section("Fusion", _protocol(setting, fitted, train), record, table, {"fusion": lines})


def _protocol(setting: Setting, fitted: Fusion, train: Occasions) -> str:
    rule = "mean of z-normalised scores" if fitted.weights is None else "logistic regression on z-normalised scores"
    return (
        f"an occasion is the n-th probe image of each modality of a person, the reference the mean feature of the "
        f"enrolled images of a modality; {rule}, learned from {train.same.size:,} comparisons of "
        f"{train.same.shape[1]} training people; a missing modality is left out"
    )


def _add(
    name: str,
    scores: np.ndarray,
    same: np.ndarray,
    fars: Sequence[float],
    record: dict[str, object],
    table: list[tuple[str, str]],
    lines: list[tuple[str, np.ndarray, np.ndarray]],
) -> None:
    known = ~np.isnan(scores)
    counted = tally(scores[known & same], scores[known & ~same])
    eer = counted.equal_error().rate
    reachable = (known & same).any(1)
    best = np.where(known, scores, -np.inf)
    own = np.where(known & same, scores, -np.inf).max(1)
    rank1 = float((np.where(same, -np.inf, best).max(1) < own)[reachable].mean())
    accepted = {far: counted.accept_rate(far) for far in fars}
    tars = {f"TAR at FAR {far:g}": 100 * found.tar if found.supported else None for far, found in accepted.items()}
    people = int((known & same).any(0).sum())
    counts = {"genuine pairs": int(counted.num_genuine), "people": people}
    record[name] = {"EER": 100 * eer, "Rank-1": 100 * rank1, **tars, **counts}
    rates = {"EER": eer, "Rank-1": rank1}
    rates |= {f"TAR at FAR {far:g}": found.tar for far, found in accepted.items() if found.supported}
    table.append((name, ", ".join(f"{n} {with_interval(rate, bounded(rate, people))}" for n, rate in rates.items())))
    pairs = f"{int(counted.num_genuine):,} genuine, {int(counted.num_impostor):,} impostor"
    lines.append((f"{name} ({pairs})", counted.fmr, counted.fnmr))


def _modality(dataset: ReIDDataset, record: Record) -> tuple[str, str] | None:
    """Person and modality of an image; None where one is not known."""
    known = dataset.attributes.get(record.path, {})
    parts = [known[name] for name in PARTS if name in known]
    return (known["person"], " ".join(parts)) if "person" in known and parts else None


def modalities_of(dataset: ReIDDataset, records: Sequence[Record]) -> list[str]:
    """Names of the modalities in some images.

    Raises:
        ReIDError: a person or a modality is not known, or there is one modality.
    """
    found = [_modality(dataset, record) for record in records]
    names = sorted({modality for _, modality in filter(None, found)})
    if None in found or len(names) < 2:
        missing = sum(place is None for place in found)
        raise ReIDError(
            f"TEST.FUSE: {missing} of {len(found)} test images of {dataset.name} lack person, or all of "
            f"{', '.join(PARTS)}; the others have {number_of(len(names), 'modality', 'modalities')}. Fusion joins the "
            "hands or fingers of a person: give them in the listing's columns person, hand, side, finger, or in "
            "DATASETS.PATTERN."
        )
    return names


def _occasions(
    dataset: ReIDDataset,
    modalities: Sequence[str],
    query: Features,
    probes: Sequence[Record],
    gallery: Features,
    references: Sequence[Record],
) -> Occasions:
    """Scores of the n-th image of each modality of a person with each enrolled person's template of it."""
    probe_modalities, enrolled = ([_modality(dataset, r) for r in part] for part in (probes, references))
    people = sorted({place[0] for place in enrolled if place})
    number = {person: i for i, person in enumerate(people)}
    occasion: dict[tuple[str, int], int] = {}
    rows: list[tuple[int, int, int]] = []  # image, occasion, modality
    seen: dict[tuple[str, str], int] = {}
    for i, place in enumerate(probe_modalities):
        if place is None or place[1] not in modalities:
            continue
        turn = seen[place] = seen.get(place, -1) + 1
        when = occasion.setdefault((place[0], turn), len(occasion))
        rows.append((i, when, modalities.index(place[1])))
    scores = np.full((len(occasion), len(people), len(modalities)), np.nan)
    for k, name in enumerate(modalities):
        labels = np.array([number[place[0]] if place and place[1] == name else -1 for place in enrolled])
        images = [(i, when) for i, when, modality in rows if modality == k]
        if not images or (labels < 0).all():
            continue
        groups = choose_images(labels, 1, every=True)
        _, group = torch.unique(groups.pids, return_inverse=True)
        owners = groups.pids.unique()
        template = mean_features(gallery.features, groups._replace(group=group, pids=owners))
        chosen = torch.tensor([i for i, _ in images])
        found = torch.cat([block.cpu() for _, block in score_blocks(query.features[chosen], template)])
        scores[np.ix_([when for _, when in images], owners.numpy(), [k])] = found.numpy()[:, :, None]
    who = np.array([number.get(person, -1) for person, _ in occasion])
    return Occasions(scores, who[:, None] == np.arange(len(people)))


def _halves(records: Sequence[Record]) -> tuple[list[int], list[int]]:
    """Training images as enrolment and probes: by the first camera (session) of an identity, else every second one."""
    images: dict[int, list[int]] = {}
    for i, record in enumerate(records):
        images.setdefault(record.pid, []).append(i)
    enrolled: list[int] = []
    probes: list[int] = []
    for own in images.values():
        cameras = sorted({records[i].camid for i in own})
        first = [i for i in own if records[i].camid == cameras[0]] if len(cameras) > 1 else own[::2]
        enrolled += first
        probes += sorted(set(own) - set(first))
    return enrolled, probes


def _part(features: Features, rows: Sequence[int]) -> Features:
    chosen = torch.tensor(rows)
    return Features(features.features[chosen], features.pids[chosen], features.camids[chosen])

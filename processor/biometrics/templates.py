"""Error rates by images per person: templates of several enrolment images, and of several probe images."""

from __future__ import annotations

import numpy as np
import torch

from processor.biometrics.setting import Section, Setting, copy_numbers
from utils.biometric.comparisons import Crossing, listed_blocks
from utils.biometric.confidence import bounded
from utils.biometric.counting import Blocks
from utils.biometric.pair_scores import score_blocks
from utils.biometric.protocols import Pairs
from utils.biometric.templates import Groups, choose_images, join_columns, join_rows, mean_features
from utils.biometric.verification import VerificationMetrics, verify_comparisons, with_interval
from utils.errors import ReIDError
from utils.retrieval.features import Features

WORDS = {"mean_feature": "mean of unit features", "best": "best score", "mean_score": "mean score"}


def template_curve(setting: Setting) -> Section:
    """EER, TAR at FAR and Rank-1 for each ``TEST.TEMPLATE_SIZE``, of the same identities for all sizes.

    Raises:
        ReIDError: no identity has as many images as the largest size needs.
    """
    keys = setting.test
    if copy_numbers(setting.dataset.query, setting.dataset.gallery) is not None:
        raise ReIDError("TEST.TEMPLATE: query and gallery share images, which a template must not be compared with.")
    both, largest = keys.TEMPLATE == "both", max(keys.TEMPLATE_SIZE)
    gallery = choose_images(setting.gallery.pids, largest, setting.seed)
    probes = choose_images(setting.query.pids, largest if both else 1, setting.seed, every=True)
    shared = np.intersect1d(gallery.pids.numpy(), probes.pids.numpy())
    if len(shared) < 2:
        raise ReIDError(
            f"TEST.TEMPLATE_SIZE {largest}: {len(shared)} identities have {largest} gallery images"
            + (f" and {largest} query images" if both else "")
            + "; at least two are needed. Choose smaller templates."
        )
    people = len(setting.subjects.gallery[torch.isin(setting.gallery.pids, torch.from_numpy(shared))].unique())
    record: dict[str, object] = {"identities": len(shared), "people": people}
    table = [("Identities (people) with enough images", f"{len(shared):,} ({people:,})")]
    points: dict[str, list[float]] = {"EER": [], "1 - Rank-1": []}
    for size in keys.TEMPLATE_SIZE:
        found, rank1 = _of_size(setting, size, both, torch.from_numpy(shared))
        name = f"{size} + {size} images" if both else f"{size} enrolled"
        tar = {f"TAR at FAR {far:g}": None if t is None else 100 * t for far, t in found.tar_at_far.items()}
        counts = {"genuine pairs": found.num_genuine, "impostor pairs": found.num_impostor}
        record[name] = {"EER": 100 * found.eer, **tar, "Rank-1": 100 * rank1, **counts}
        rates = {"EER": found.eer, "Rank-1": rank1} | {n: rate for n, (_, rate) in found.rates().items()}
        parts = [f"{n} {with_interval(rate, bounded(rate, people))}" for n, rate in rates.items()]
        table.append((f"{name} ({found.num_genuine:,} genuine)", ", ".join(parts)))
        points["EER"].append(100 * found.eer)
        points["1 - Rank-1"].append(100 * (1 - rank1))
    sizes = np.array(keys.TEMPLATE_SIZE, dtype=float)
    lines = [(f"{name} ({len(shared):,} identities)", sizes, np.array(values)) for name, values in points.items()]
    side = "enrolment and probe images are" if both else "enrolment images are"
    protocol = f"{side} joined by the {WORDS[keys.TEMPLATE_RULE]}; images of a template drawn by seed"
    return Section("Templates", protocol, record, table, {"templates": lines})


def _of_size(setting: Setting, size: int, both: bool, shared: torch.Tensor) -> tuple[VerificationMetrics, float]:
    """Verification of templates of ``size`` images, and their rank-1 rate."""
    gallery = _only(choose_images(setting.gallery.pids, size, setting.seed), shared)
    probes = _only(choose_images(setting.query.pids, size if both else 1, setting.seed, every=True), shared)
    blocks = template_blocks(setting, probes, gallery)
    keys = setting.test
    found = verify_comparisons(blocks, None, keys.FAR)
    right = [block.scores.argmax(1) == block.same.byte().argmax(1) for block in blocks()]
    return found, float(torch.cat(right).double().mean())


def template_blocks(setting: Setting, probes: Groups, gallery: Groups) -> Blocks:
    """Comparisons of probe templates with enrolled ones by ``TEST.TEMPLATE_RULE``."""
    keys = setting.test
    rule = keys.TEMPLATE_RULE
    if rule == "mean_feature":
        sides = zip((probes, gallery), (setting.query, setting.gallery), strict=True)
        query, enrolled = (_features(mean_features(part.features, chosen), chosen) for chosen, part in sides)
        return Crossing(query, enrolled).blocks
    single = torch.cat(
        [s.cpu() for _, s in score_blocks(setting.query.features[probes.rows], setting.gallery.features[gallery.rows])]
    )
    scores = join_columns(single, gallery.group, len(gallery.pids), rule)
    scores = join_rows(scores, probes.group, len(probes.pids), rule)
    left, right = torch.meshgrid(torch.arange(scores.shape[0]), torch.arange(scores.shape[1]), indexing="ij")
    same = probes.pids[:, None] == gallery.pids
    pairs = Pairs(left.reshape(-1), right.reshape(-1), same.reshape(-1))
    return lambda: listed_blocks(pairs, scores.reshape(-1), *scores.shape)


def _features(features: torch.Tensor, chosen: Groups) -> Features:
    return Features(features, chosen.pids, torch.zeros_like(chosen.pids))


def _only(groups: Groups, pids: torch.Tensor) -> Groups:
    """The templates of some identities."""
    kept = torch.isin(groups.pids, pids)
    rows = kept[groups.group]
    number = kept.cumsum(0) - 1
    return Groups(groups.rows[rows], number[groups.group[rows]], groups.pids[kept])

"""Error rates of normalised scores, beside those of the scores as they are."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from processor.biometrics.errors import bounded_rates, numbers_of_people, verification_record
from processor.biometrics.setting import Section, Setting
from utils.biometric.comparisons import Comparisons
from utils.biometric.pair_scores import score_blocks
from utils.biometric.scores.normalisation import Spread, cohort_spread, default_top, normalise, sample_rows
from utils.biometric.verification import verify_comparisons, with_interval
from utils.retrieval.features import Features

MOST_COHORT = 2000
NAMES = {"z": "z-norm", "t": "t-norm", "s": "s-norm", "as": "adaptive s-norm"}


def normalised(setting: Setting) -> Section:
    """EER and TAR at FAR of the scores normalised by ``TEST.SCORE_NORM`` with training images as cohort."""
    keys, training = setting.test, setting.training
    rows = sample_rows(len(training.features), MOST_COHORT, setting.seed)
    cohort = training.features.features[rows]
    top = (keys.COHORT_TOP or default_top(len(rows))) if keys.SCORE_NORM == "as" else None
    names = dict.fromkeys([*training.people, *setting.people[0], *setting.people[1]])
    number = {name: i for i, name in enumerate(names)}
    of_cohort = torch.tensor([number[training.people[i]] for i in rows.tolist()])
    spreads = [
        _spread(part, torch.tensor([number[name] for name in people]), cohort, of_cohort, top)
        for part, people in zip((setting.query, setting.gallery), setting.people, strict=True)
    ]

    def blocks() -> Iterator[Comparisons]:
        for block in setting.blocks():
            probes = Spread(*(part[block.queries] for part in spreads[0]))
            found = normalise(block.scores.cpu().T, keys.SCORE_NORM, spreads[1], probes).T
            yield block._replace(scores=found, same=block.same.cpu(), counted=block.counted.cpu())

    found = verify_comparisons(blocks, setting.crossing, keys.FAR)
    intervals = bounded_rates(setting, found)
    table = [(name, with_interval(rate, intervals.get(name))) for name, (_, rate) in found.rates().items()]
    words = f"{NAMES[keys.SCORE_NORM]} with {len(rows):,} training images of {len(of_cohort.unique())} people as cohort"
    words += f", the {top} highest for each image" if top else ""
    protocol = f"{words}; people compared are left out of the cohort; population standard deviation"
    curve = found.curve
    lines = {"det": [(NAMES[keys.SCORE_NORM], curve.far, curve.frr)]}
    record = {"rule": keys.SCORE_NORM, "cohort images": len(rows), **verification_record(found, intervals)}
    record |= numbers_of_people(setting)
    return Section("Score normalisation", protocol, record, table, lines)


def _spread(
    part: Features, people: torch.Tensor, cohort: torch.Tensor, of_cohort: torch.Tensor, top: int | None
) -> Spread:
    found = [
        cohort_spread(scores.cpu(), people[rows], of_cohort, top)
        for rows, scores in score_blocks(part.features, cohort)
    ]
    return Spread(*(torch.cat(values) for values in zip(*found, strict=True)))

"""Stage 0: image and text encoder are trained on images and sentences about them, as CLIP was (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from model.base import Method, Stage
from model.clip.alignment import clip_tensors
from processor.processor_clipreid_stage2 import do_train_stage2
from processor.reports.tables import note_sentences
from processor.runs.run import Run
from processor.testing.evaluation import Evaluation
from processor.testing.text_matching import sentence_results
from processor.training.train_set import PlainImages
from processor.training.training_loop import Scheduler
from utils.console.logger import LOGGER
from utils.files.checkpoint import write_atomically
from utils.metrics import RankingMetrics
from utils.optional import MissingPackageError, import_optional

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from datasets.bases import ReIDDataset


class Sentences(Protocol):
    """See :class:`datasets.fields.captions.Captions`."""

    def draw(self, path: str, seed: int) -> str: ...

    def detailed(self, path: str) -> str: ...

    def covers(self, path: str) -> bool: ...


@dataclass(frozen=True)
class SentenceData:
    """What stage 0 reads besides augmented images.

    Attributes:
        dataset: its people train or are tested, never both.
        sentences: about its images.
        test: loader of the test images.
        templates: by attribute, the sentence with ``{}`` for its value.
    """

    dataset: ReIDDataset
    sentences: Sentences
    test: DataLoader
    templates: Mapping[str, str]


def do_train_stage0(
    cfg: CfgNode,
    method: Method,
    stage: Stage,
    data: SentenceData,
    loader: DataLoader,
    optimizers: Sequence[Optimizer],
    scheduler: Scheduler,
    run: Run,
    evaluate: Callable[[], Evaluation | None],
    validate: Callable[[], RankingMetrics] | None,
    plain_loader: DataLoader,
) -> None:
    """Train; before and after, match sentences with the images of people who do not train.

    The features get the lengths whose product is the logit scale, and CLIP's tensors are written to
    ``<MODEL.NAME>_clip.safetensors``, from which any method can start.

    Args:
        data: sentences, and images to match with them.
        other arguments: see :func:`do_train_stage2`.
    """
    if run.position.stage > stage.number:
        return
    measure = partial(_measure, cfg, method, data, run)
    if not run.position.epoch:
        measure("start")
    finish = partial(_finish, cfg, method, data, plain_loader, run)
    given = (loader, optimizers, scheduler, run, evaluate, validate, plain_loader)
    do_train_stage2(cfg, method, stage, *given, finish=finish)
    measure("stage 0")


def _measure(cfg: CfgNode, method: Method, data: SentenceData, run: Run, when: str) -> None:
    """Recall of sentences and images, and accuracy of attributes, on the test images that have sentences."""
    records = data.test.dataset.records
    rows = [i for i, record in enumerate(records) if data.sentences.covers(record.path)]
    if not rows:
        LOGGER.info("note: the test images have no sentences: recall is not measured")
        return
    images, _ = PlainImages(method, data.test, run.precision).features(lambda outputs: outputs["projected"], side=False)
    paths = [records[i].path for i in rows]
    known = [data.dataset.attributes.get(path, {}) for path in paths]
    said = [data.sentences.detailed(path) for path in paths]
    encode: Callable[[Sequence[str]], torch.Tensor] = method.encode_sentences
    found = sentence_results(F.normalize(images[rows].float()).cpu(), said, known, encode, data.templates)
    note_sentences(cfg, run, data.dataset, when, found)


@torch.no_grad()
def _finish(cfg: CfgNode, method: Method, data: SentenceData, plain_loader: DataLoader, run: Run) -> None:
    """Give the features their lengths and write CLIP's tensors."""
    images, _ = PlainImages(method, plain_loader, run.precision).features(
        lambda outputs: outputs["projected"], side=False
    )
    said = [data.sentences.draw(record.path, cfg.SOLVER.SEED) for record in data.dataset.train]
    number = {sentence: i for i, sentence in enumerate(dict.fromkeys(said))}
    texts = method.sentence_features(list(number))
    method.finish_alignment(images, texts[[number[sentence] for sentence in said]])
    tensors = clip_tensors(method.image_encoder, method.text_encoder, method.alignment)
    path = run.output_dir / f"{cfg.MODEL.NAME.replace('/', '-')}_clip.safetensors"
    try:
        save = import_optional("safetensors.torch").save
    except MissingPackageError as error:
        LOGGER.warning("%s is not written; %s. Start from the checkpoint of stage 0", path.name, error)
        return
    write_atomically(path, lambda file: file.write(save(tensors, {"format": "pt"})))
    LOGGER.info("%s can start any method: MODEL.PRETRAIN_PATH", path)

"""The contract of a method: its interface to training, test and export.

A method has two halves with a seam between them. In front of the seam, :meth:`Method.forward` turns images into named
tensors, a row for each image; it may run in micro-batches, in several processes and under autocast. Behind the seam,
:meth:`Method.losses` sees the whole batch, in float32, in every process alike. :meth:`Method.embed` reads the same
tensors in a test. docs/methods.md shows how a method is added.

Letters in shapes: B images, C identities, D channels, N training images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from model.backbones.base import Backbone, Outputs

if TYPE_CHECKING:
    from yacs.config import CfgNode

Terms = dict[str, Tensor]
"""Named scalars."""

METADATA = "reid"
"""Where a checkpoint keeps :attr:`Method.card`: in the state dict's ``_metadata``, or in the safetensors header."""


@dataclass(frozen=True)
class DataFacts:
    """What a model is built for. Its checkpoint keeps it, and a test reads it from there, never from the test data.

    Attributes:
        identities: C; labels are 0..C-1.
        cameras: as numbered in training; 0 if unknown.
        views: hand aspect, vehicle side or source domain; 0 if unknown.
        images: N, training images; 0 in a test.
        names: of the identities, in label order.
        sentence: of the data set, ``{}`` for the learnable tokens: "A photo of a {} hand."
        sources: data sets that the training set is made of; 0 where it does not say.
        attributes: for each attribute that stage 0 classifies, the sentences of its classes.
    """

    identities: int
    cameras: int = 0
    views: int = 0
    images: int = 0
    names: tuple[str, ...] = ()
    sentence: str = ""
    sources: int = 0
    attributes: tuple[tuple[str, ...], ...] = ()


@dataclass
class Batch:
    """The fields that a method may read; the loader returns a dict of these names.

    Attributes:
        images: [B, 3, H, W], normalised.
        labels: [B] identities; None in a test.
        cameras, views: [B]; None unless :meth:`Method.needs` names them.
        index: [B] rows of the training set, for tensors kept for each image.
        extra: what else :meth:`Method.needs` names, ``keypoints`` [B, J, 3], x and y in pixels of the image as
            augmented and the score of each; ``source`` [B], the data set that each image is from, where the training
            set names any.
    """

    images: Tensor
    labels: Tensor | None = None
    cameras: Tensor | None = None
    views: Tensor | None = None
    index: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: Mapping[str, Tensor], needs: frozenset[str], device: torch.device) -> Batch:
        """A loader's dict on ``device``; of what is not needed, only images, labels and index."""
        own = {f.name for f in fields(cls)} - {"extra"}
        wanted = {"images", "labels", "index"} | needs
        moved = {name: t.to(device, non_blocking=True) for name, t in loaded.items() if name in wanted}
        return cls(
            **{name: t for name, t in moved.items() if name in own},
            extra={name: t for name, t in moved.items() if name not in own},
        )

    def split(self, micro_batches: int) -> list[Batch]:
        """At most so many micro-batches, in order, as :func:`torch.chunk` cuts them."""
        if micro_batches == 1:
            return [self]
        rows = torch.arange(len(self.images)).chunk(micro_batches)
        return [self._rows(int(part[0]), int(part[-1]) + 1) for part in rows]

    def with_mirror_images(self) -> Batch:
        """The images, then their mirror images, with the same other fields: [2 B, ...]."""
        twice = self._each(lambda field: torch.cat([field, field]))
        return replace(twice, images=torch.cat([self.images, self.images.flip(-1)]))

    def _rows(self, start: int, stop: int) -> Batch:
        return self._each(lambda field: field[start:stop])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        return replace(
            self,
            **{name: None if t is None else change(t) for name, t in own.items()},
            extra={name: change(t) for name, t in self.extra.items()},
        )


class Stage(NamedTuple):
    """One stage of a training.

    Attributes:
        number: 0, 1 or 2: optimiser, schedule, epochs and batch are those of ``SOLVER.STAGE<number>``.
        cached: outputs that are computed once, in eval mode and without side information, in place of
            :meth:`Method.forward` in each iteration.
    """

    number: int
    cached: tuple[str, ...] = ()


class Progress(NamedTuple):
    """How far a training is: epochs and iterations count from 1; iteration 0 is between epochs."""

    stage: int
    epoch: int
    iteration: int = 0


class Rate(NamedTuple):
    """How one parameter is trained.

    Attributes:
        lr, weight_decay: base values.
        optimizer: name of another optimiser than ``SOLVER.STAGE<n>.OPTIMIZER_NAME``; parameters of one name share one.
        scheduled: whether the schedule changes ``lr``.
        momentum: of SGD, None for ``SOLVER.STAGE<n>.MOMENTUM``.
    """

    lr: float
    weight_decay: float
    optimizer: str = ""
    scheduled: bool = True
    momentum: float | None = None


class TrainingSet(Protocol):
    """All training images, each once, without augmentation, in eval mode, without gradients; processes divide them."""

    def features(self, read: Callable[[Outputs], Tensor], side: bool = True) -> tuple[Tensor, Tensor]:
        """``read`` of each image's outputs [N, F] and labels [N], in every process, in the order of the images.

        Without ``side`` the method gets neither cameras nor views.
        """

    def by_identity(self, read: Callable[[Outputs], Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Identity, rows [n] of its images and ``read`` of them [n, ...]: one identity in memory at a time.

        Each process gets identities of its own.
        """


class Method(nn.Module):
    """A method of re-identification, for training and for a test.

    Its state is parameters and registered buffers, nothing else: a run that resumes in the middle of an epoch has only
    these. What depends on time is a function of ``at``.

    Attributes:
        stages: in order; ``SOLVER.STAGES`` chooses among them. Empty for a method that is not trained.
        backbones: families of ``MODEL.NAME`` that it takes.
        mixes_images: :meth:`forward` reads other rows of the batch, so micro-batches are refused.
        identity_bound: prefixes of tensors that belong to one data set's identities, cameras or images: left out when
            another data set starts from a checkpoint.
        resume_only: prefixes of tensors that are kept to resume and not in checkpoints (pseudo-labels, text features).
        train_only: prefixes of tensors that are in checkpoints and not built for a test (prompts, text encoder).
        has_sentences: each identity has a sentence of its own, whose fit to the images is logged.
        note: for the log, what is left out of the published method, or that no published number belongs to this one.
        image_encoder: the backbone.
        card: what the checkpoint keeps besides tensors; set by :mod:`model.make_model_clipreid`.
        inputs: what :meth:`needs` names for a test; set there too.
    """

    stages: ClassVar[tuple[Stage, ...]] = (Stage(2),)
    backbones: ClassVar[tuple[str, ...]] = ("clip", "timm")
    mixes_images: ClassVar[bool] = False
    identity_bound: ClassVar[tuple[str, ...]] = ("classifier",)
    resume_only: ClassVar[tuple[str, ...]] = ()
    train_only: ClassVar[tuple[str, ...]] = ()
    has_sentences: ClassVar[bool] = False
    note: ClassVar[str] = ""
    image_encoder: Backbone

    def __init__(self) -> None:
        super().__init__()
        self.card: dict[str, Any] = {}
        self.inputs: frozenset[str] = frozenset()

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """Refuse settings that cannot work, before any data is read.

        Raises:
            ReIDError: naming the key, its value and a valid one.
        """

    @classmethod
    def needs(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        """Fields of :class:`Batch` besides images, labels and index.

        A data set that lacks one is refused before training; an export takes them as inputs.
        """
        return frozenset()

    @classmethod
    @abstractmethod
    def build(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> Self:
        """The only place that reads ``cfg``; constructors take typed plain arguments."""

    @abstractmethod
    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        """In front of the seam. Random draws are seeded by the loop.

        In eval mode ``at`` is None, each row depends on its own image alone, and only what :meth:`embed` or a pass over
        the training set reads is computed.
        """

    @abstractmethod
    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        """Behind the seam: weighted terms, whose sum is the total, and other scalars to log. ``labels`` [B]."""

    @abstractmethod
    def embed(self, outputs: Outputs) -> Tensor:
        """The test feature [B, D], as published and before ``TEST.FLIP``, ``TEST.FEAT_NORM`` and ``TEST.METRIC``."""

    def test_feature(self, batch: Batch, flip: bool = False) -> Tensor:
        """:meth:`embed` of a batch [B, D] in eval mode; with ``flip`` the sum of the image's and its mirror image's."""
        if not flip:
            return self.embed(self(batch))
        features, count = self.embed(self(batch.with_mirror_images())), batch.images.shape[0]
        return features[:count] + features[count:]

    def begin_epoch(self, data: TrainingSet, at: Progress) -> None:
        """Fill buffers from the training set; called in eval mode when an epoch starts, never in the middle of one."""

    def sentences(self) -> Tensor:
        """Features of each identity's own sentence [C, E], not normalised, where :attr:`has_sentences`.

        Called by all processes.
        """
        raise NotImplementedError

    def prompt_tokens(self) -> Tensor:
        """Learned tokens of each identity's sentence [C, M, D], where :attr:`has_sentences`."""
        raise NotImplementedError

    def token_table(self) -> Tensor:
        """Token embeddings of the text encoder [vocabulary, D]."""
        return self.image_encoder.text.embedding

    def sentence_logits(self, images: Tensor, sentences: Tensor) -> Tensor:
        """Logits [N, C] of the method's loss between projected features [N, E] and sentences [C, E]."""
        return images @ sentences.T

    def layers_up_to(self, last: str) -> tuple[str, ...]:
        """Prefixes of the parameters of the image encoder up to layer ``last``, see :meth:`Backbone.layers_up_to`;
        none where ``last`` is empty.
        """
        return tuple(f"image_encoder.{name}" for name in self.image_encoder.layers_up_to(last)) if last else ()

    def frozen(self, at: Progress) -> tuple[str, ...]:
        """Prefixes of what does not train in this epoch and stays in eval mode."""
        return ()

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        """Rate and decay of one parameter, None if it is never trained in ``stage``.

        Args:
            name: of the parameter.
            stage: its number.
            solver: ``SOLVER.STAGE<stage>``; its BIAS_LR_FACTOR, WEIGHT_DECAY_BIAS, LARGE_FC_LR and NEW_LR_FACTOR are
                read here.
        """
        lr, weight_decay = solver.BASE_LR, solver.WEIGHT_DECAY
        if "bias" in name:
            lr, weight_decay = lr * solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS
        if solver.LARGE_FC_LR and name.startswith("classifier"):
            lr *= 2
        if not name.startswith("image_encoder."):
            lr *= solver.NEW_LR_FACTOR
        return Rate(lr, weight_decay)

    def check_start(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a checkpoint that cannot start a training on another data set.

        Raises:
            ReIDError: naming what differs and what to do.
        """

    @classmethod
    def facts_in(cls, cfg: CfgNode, state: Mapping[str, Tensor], seen: DataFacts, known: DataFacts | None) -> DataFacts:
        """What a checkpoint was trained for: as its metadata says, or by the shapes of its tensors.

        Args:
            cfg: the configuration of the test.
            state: the checkpoint, under own names.
            seen: cameras and views of the test data; 0 if unknown.
            known: from the metadata; None for a published file.

        Raises:
            ReIDError: the checkpoint cannot be tested with ``cfg``.
        """
        weights = (len(t) for n, t in state.items() if n.startswith(cls.identity_bound) and n.endswith("weight"))
        return known or replace(seen, identities=next(weights, 1))

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published checkpoint under own names, aliases dropped; own names pass unchanged."""
        return state

    def saliency(self, batch: Batch) -> Tensor:
        """Where the backbone looks, [B, h, w] in [0, 1]."""
        return self.image_encoder.saliency(batch.images)

    def checkpoint(self) -> OrderedDict[str, Tensor]:
        """The state dict without :attr:`resume_only`, with :attr:`card` in its metadata."""
        state = self.state_dict()
        kept = OrderedDict((name, t) for name, t in state.items() if not name.startswith(self.resume_only or ("\0",)))
        kept._metadata = OrderedDict(state._metadata) | {METADATA: dict(self.card)}
        return kept

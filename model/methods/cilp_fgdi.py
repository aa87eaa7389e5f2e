"""CILP-FGDI (Zhao et al., TIFS 2025, arXiv 2501.16065): CLIP-ReID for several source domains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from loss import contrast_terms
from model.backbones.base import Backbone, Outputs, TextTower
from model.base import Batch, DataFacts, Progress, Rate, Stage, Terms, TrainingSet
from model.clip.prompts import context_tokens
from model.clip.simple_tokenizer import encode, tokenize
from model.methods.baseline import ImageReID, accuracy
from model.methods.clipreid import CLIPReID
from model.methods.renaming import by_prefixes
from utils.compute.distributed import sharded
from utils.compute.precision import full_precision, widened
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode

REVERSAL = 0.1
"""Factor of the reversed gradient."""
DOMAIN_WEIGHT = 0.01
"""Of the domain classifiers' cross-entropy."""


class CILPFGDI(CLIPReID):
    r""":class:`CLIPReID` whose texts are freed of the domain, in the stages 0, 1 and 2.

    Stage 0 adapts the image encoder for a few epochs by ID and triplet loss. Stage 1 learns, against the adapted
    features, the tokens of "A photo of a X X X X person.", while a domain classifier behind a gradient reversal reads
    the texts; in its last ``domain_epochs`` epochs the domain token of "A photo of a X X X X person from X dataset.",
    the identity's tokens being fixed. Stage 2 trains on with :math:`(1 - b) L_{i2tce} + b L_{apn}`: each image comes
    nearer to its identity's text and farther from the domain's (:func:`push_from_domain`).

    The domains are the data set's sources, or where it names none its views; each identity belongs to the one of most
    of its images. With a single domain, or with ``domain_epochs`` 0, the method is CLIP-ReID with stage 0.

    Args:
        backbone, num_classes: as of :class:`CLIPReID`.
        domains: of the training set.
        domain_epochs: of stage 1 for the domain tokens.
        identity_epochs: of stage 1 before them.
        domain_lr: of the domain classifiers.
        apn: distance of the last term, ``euclidean``, ``cosine``, or ``released`` for the published code's similarity.
        apn_weight: b.
        instance_norm: normalise each image by its own mean and deviation, channel by channel.
        other arguments: see :class:`CLIPReID`.

    Attributes:
        domain_of: [C] domain of each identity, found when the training starts.
        all_domain_texts: [C, E] features of the domain sentences, computed when stage 2 starts.
    """

    stages = (Stage(0), Stage(1, cached=("projected",)), Stage(2))
    identity_bound = (*CLIPReID.identity_bound, "domain_")
    resume_only = (*CLIPReID.resume_only, "all_domain_texts")
    train_only = (*CLIPReID.train_only, "domain_")
    note = "each stage has an optimiser of its own, where the published code carries one over"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        super().check(cfg)
        keys, epochs = cfg.MODEL.CILP_FGDI, cfg.SOLVER.STAGE1.MAX_EPOCHS
        if epochs <= keys.DOMAIN_EPOCHS and 1 in cfg.SOLVER.STAGES:
            raise ReIDError(
                f"MODEL.CILP_FGDI.DOMAIN_EPOCHS = {keys.DOMAIN_EPOCHS} of SOLVER.STAGE1.MAX_EPOCHS = {epochs}: none is "
                "left for the identities' tokens. Set it lower; published: 30 of 150."
            )
        if cfg.MODEL.SIE_VIEW:
            raise ReIDError(
                "MODEL.SIE_VIEW with MODEL.METHOD = cilp_fgdi: views are the domains, which a test does not know. Set "
                "it to False."
            )
        if cfg.MODEL.TEXT_LOSS != "i2tce" or cfg.MODEL.ONE_STAGE:
            raise ReIDError("MODEL.METHOD = cilp_fgdi: set MODEL.TEXT_LOSS to i2tce and MODEL.ONE_STAGE to False.")

    @classmethod
    def reads_captions(cls, cfg: CfgNode) -> bool:
        return False

    @classmethod
    def needs(cls, cfg: CfgNode, training: bool) -> frozenset[str]:
        own = {"views", "source"} if training and cfg.MODEL.CILP_FGDI.DOMAIN_EPOCHS else set()
        return super().needs(cfg, training) | own

    @classmethod
    def options(cls, cfg: CfgNode, backbone: Backbone, facts: DataFacts, training: bool) -> dict[str, Any]:
        keys = cfg.MODEL.CILP_FGDI
        return super().options(cfg, backbone, facts, training) | {
            "domains": facts.sources or facts.views,
            "domain_epochs": keys.DOMAIN_EPOCHS,
            "identity_epochs": cfg.SOLVER.STAGE1.MAX_EPOCHS - keys.DOMAIN_EPOCHS,
            "domain_lr": keys.DOMAIN_LR,
            "apn": keys.APN,
            "apn_weight": keys.APN_WEIGHT,
            "instance_norm": keys.INSTANCE_NORM,
        }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        text: TextTower | None = None,
        sentence: str = "",
        domains: int = 1,
        domain_epochs: int = 30,
        identity_epochs: int = 120,
        domain_lr: float = 0.01,
        apn: str = "euclidean",
        apn_weight: float = 0.1,
        instance_norm: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, text=text, sentence=sentence, **options)
        self.identity_epochs, self.domain_lr = identity_epochs, domain_lr
        self.apn, self.apn_weight, self.instance_norm = apn, apn_weight, instance_norm
        self.guided = domains > 1 and domain_epochs > 0
        if text is not None and self.guided:
            width = backbone.dims["projected"]
            self.domain_prompts = DomainPrompts(sentence, domains, text)
            self.domain_reversed = DomainClassifier(width, domains)
            self.domain_plain = DomainClassifier(width, domains)
            self.register_buffer("domain_of", torch.zeros(num_classes, dtype=torch.long))
            self.register_buffer("all_domain_texts", torch.zeros(num_classes, width))

    def forward(self, batch: Batch, at: Progress | None = None) -> Outputs:
        outputs = super().forward(self._normalised(batch), at)
        domains = batch.extra.get("source", batch.views)
        return outputs if domains is None else outputs | {"domain": domains}

    def saliency(self, batch: Batch) -> Tensor:
        return super().saliency(self._normalised(batch))

    def _normalised(self, batch: Batch) -> Batch:
        return replace(batch, images=F.instance_norm(batch.images)) if self.instance_norm else batch

    def encode_domain_text(self, labels: Tensor) -> Tensor:
        """Identities [B] -> features of the sentences about their domains [B, E]; no gradient reaches their tokens."""
        context = self.prompt_learner.cls_ctx[labels].detach()
        prompts = self.domain_prompts(context, self.domain_of[labels])
        return self.text_encoder(prompts, self.domain_prompts.end)

    def begin_epoch(self, data: TrainingSet, at: Progress) -> None:
        super().begin_epoch(data, at)
        if not self.guided or at.epoch != 1:
            return
        if at.stage < 2:
            self.domain_of.copy_(domains_of(*data.features(lambda outputs: outputs["domain"]), len(self.domain_of)))
        else:
            labels = torch.arange(self.num_classes, device=self.domain_of.device)
            self.all_domain_texts.copy_(widened(sharded(self.encode_domain_text, labels)))

    def frozen(self, at: Progress) -> tuple[str, ...]:
        if at.stage != 1 or not self.guided:
            return super().frozen(at)
        if at.epoch <= self.identity_epochs:
            return "domain_prompts.", "domain_plain."
        return "prompt_learner.", "domain_reversed."

    def losses(self, outputs: Outputs, labels: Tensor, at: Progress) -> tuple[Terms, Terms]:
        if at.stage == 0:
            return ImageReID.losses(self, outputs, labels, at)
        if not self.guided:
            return super().losses(outputs, labels, at)
        if at.stage == 1:
            return self._learn_texts(outputs["projected"], labels, at.epoch <= self.identity_epochs)
        terms, shown = super().losses(outputs, labels, at)
        pushed = push_from_domain(outputs["projected"], self.all_texts[labels], self.all_domain_texts[labels], self.apn)
        terms["i2t"] = (1 - self.apn_weight) * terms["i2t"]
        return terms | {"apn": self.text_weight * self.apn_weight * pushed}, shown

    def _learn_texts(self, images: Tensor, labels: Tensor, of_identities: bool) -> tuple[Terms, Terms]:
        """Stage 1: the contrast with the images, and a domain classifier on the texts."""
        domains = self.domain_of[labels]
        if of_identities:
            texts = self._texts(labels)
            scores = self.domain_reversed(Reverse.apply(texts))
        else:
            identities, position = labels.unique(return_inverse=True)
            texts = widened(sharded(self.encode_domain_text, identities))[position]
            scores = self.domain_plain(texts.detach())
        terms = contrast_terms(self.contrast, images, texts, labels)
        return terms | {"domain": DOMAIN_WEIGHT * F.cross_entropy(scores, domains)}, {
            "domain accuracy": accuracy(scores, domains)
        }

    def rate(self, name: str, stage: int, solver: CfgNode) -> Rate | None:
        if name.startswith("domain_"):
            if stage != 1:
                return None
            return Rate(solver.BASE_LR if "prompts" in name else self.domain_lr, solver.WEIGHT_DECAY)
        # Stage 0 trains what stage 2 trains.
        return super().rate(name, stage or 2, solver)

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published code's names of prompts and domain classifiers."""
        own = {
            "promptlearner.clsctx": "prompt_learner.cls_ctx",
            "promptlearner.dmctx": "domain_prompts.context",
            "dcgrl.": "domain_reversed.",
            "dc.": "domain_plain.",
        }
        return by_prefixes(state, own)


class DomainPrompts(nn.Module):
    """A sentence with an identity's tokens and a domain's token, which is learned.

    Args:
        sentence: with the X of the identity; "from X dataset", with the X of the domain, is added.
        domains: M.
        text: CLIP's text tower.
    """

    def __init__(self, sentence: str, domains: int, text: TextTower) -> None:
        super().__init__()
        before, count = context_tokens(sentence)
        tokens = tokenize(f"{sentence.rstrip('. ')} from X dataset.", context_length=text.context)[0]
        self.end = int(tokens.argmax())
        # Other words may hold the token of an X ("X-ray"); that of the domain is the last one.
        first, last = 1 + len(encode(before)), int((tokens == encode("X")[0]).nonzero()[-1])
        self.places = [*range(first, first + count), last]
        embedded = text.embedding[tokens[: self.end + 1]].float()
        self.context = nn.Parameter(torch.empty(domains, 1, embedded.shape[1]).normal_(std=0.02))
        self.register_buffer("sentence", embedded)

    def forward(self, context: Tensor, domains: Tensor) -> Tensor:
        """Tokens of identities [B, K, D] and domains [B] -> embedded sentences [B, L, D]."""
        learned = torch.cat((context, self.context[domains]), dim=1)
        places = torch.tensor(self.places, device=learned.device)
        return self.sentence.expand(len(learned), -1, -1).index_copy(1, places, learned)


class DomainClassifier(nn.Module):
    """Scores of the domains [B, M] from text features [B, E]; a single text is doubled, which BatchNorm needs."""

    def __init__(self, width: int, domains: int, hidden: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, domains)

    def forward(self, texts: Tensor) -> Tensor:
        given = texts.repeat(2, 1) if len(texts) == 1 else texts
        return self.fc2(F.relu(self.bn1(self.fc1(given))))[: len(texts)]


class Reverse(Function):
    """The identity, whose gradient is multiplied by -:data:`REVERSAL` (Ganin and Lempitsky, arXiv 1409.7495)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -REVERSAL * gradient


@full_precision
def push_from_domain(images: Tensor, identities: Tensor, domains: Tensor, kind: str) -> Tensor:
    r"""Mean of :math:`\log(1 + e^{d(a, p) - d(a, n)})` for images a, texts p of identities and n of domains.

    Args:
        images, identities, domains: [B, E].
        kind: of d: ``euclidean``; ``cosine``, 1 minus the cosine; ``released``, the cosine itself, which pushes images
            away from their identities' texts.
    """

    def distance(other: Tensor) -> Tensor:
        if kind == "euclidean":
            return (images - other).norm(dim=1)
        similarity = F.cosine_similarity(images, other)
        return similarity if kind == "released" else 1 - similarity

    return F.softplus(distance(identities) - distance(domains)).mean()


def domains_of(domains: Tensor, labels: Tensor, identities: int) -> Tensor:
    """Domain of each image [N] or [N, 1] and labels [N] -> domain of most images of each identity [C]."""
    domains = domains.flatten().long()
    counts = torch.zeros(identities, int(domains.max()) + 1, dtype=torch.long, device=labels.device)
    counts.index_put_((labels, domains), torch.ones_like(labels), accumulate=True)
    found = counts.argmax(1)
    mixed = int((domains != found[labels]).sum())
    if mixed:
        LOGGER.warning(
            "cilp_fgdi: %d of %d training images are of another domain (source or view) than most of their identity's, "
            "whose text has one domain. Give each source its own identities, or set MODEL.CILP_FGDI.DOMAIN_EPOCHS to 0",
            mixed,
            len(domains),
        )
    return found

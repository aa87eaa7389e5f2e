"""Training images against whole sentences, as CLIP was (Radford et al., arXiv 2103.00020): stage 0.

Stages 1 and 2 need sentences as embedded tokens alone. Here the words themselves are read, so the token embedding
table and the logit scale are parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss.info_nce import info_nce
from model.backbones.base import TextTower
from model.base import Terms
from model.clip.prompts import encode_tokens
from model.clip.simple_tokenizer import refuse_marks, tokenize
from utils.compute.distributed import sharded
from utils.compute.precision import widened
from utils.errors import ReIDError


class CaptionReader:
    """From an image and a seed to the tokens of the sentences about it.

    Args:
        draw: from the path of an image and a seed to a sentence.
        given: sentences that are not made by templates, to be checked before training.
        labels: from the path to the class of each attribute, -1 where its value is not known.

    Raises:
        ReIDError: one of them is too long for the text encoder or holds a mark of the tokenizer.
    """

    def __init__(
        self,
        draw: Callable[[str, int], str],
        given: Iterable[str] = (),
        labels: Callable[[str], Sequence[int]] | None = None,
    ) -> None:
        self.draw, self.labels = draw, labels
        sentences = list(dict.fromkeys(given))
        refuse_marks(sentences, "a caption")
        tokenize(sentences)

    def __call__(self, path: str, seed: int) -> dict[str, Tensor]:
        """``caption`` [77], zeros behind the end, and ``attributes`` [A], classes."""
        found = {"caption": tokenize(self.draw(path, seed))[0]}
        if self.labels is not None:
            found["attributes"] = torch.tensor(self.labels(path))
        return found


class Alignment(nn.Module):
    """The contrast of images with sentences.

    Args:
        text: CLIP's text tower, whose encoder the method registers itself.
        largest_scale: that the logit scale may have; CLIP's is 100.
        attributes: for each attribute that is classified, the sentences of its classes.

    Attributes:
        token_embedding: [vocabulary, D].
        logit_scale: logarithm of the factor on cosines; changed in place where it leaves [0, log(largest_scale)].
        classifier: linear, from an image's feature [E] to the classes of all attributes.

    Raises:
        ReIDError: the start has no token embeddings.
    """

    def __init__(self, text: TextTower, largest_scale: float = 100.0, attributes: Sequence[Sequence[str]] = ()) -> None:
        super().__init__()
        if not text.reads_words:
            raise ReIDError(
                "SOLVER.STAGES has stage 0, which reads words: a checkpoint of re-identification has no token "
                "embeddings. Start from CLIP's weights or from a file *_clip.safetensors that stage 0 wrote."
            )
        self.token_embedding = nn.Parameter(text.embedding.float().clone())
        self.logit_scale = nn.Parameter(text.logit_scale.float().clone())
        self.largest_scale = largest_scale
        self.context = text.context
        self.sizes = [len(sentences) for sentences in attributes]
        if attributes:
            said = [sentence for sentences in attributes for sentence in sentences]
            self.register_buffer("attribute_tokens", tokenize(said), persistent=False)
            self.classifier = nn.Linear(text.encoder.text_projection.shape[1], len(said))

    def terms(self, encoder: nn.Module, images: Tensor, captions: Tensor) -> tuple[Terms, Terms]:
        """Symmetric InfoNCE of images [B, E] and their sentences [B, L]; those of one sentence are its positives."""
        with torch.no_grad():
            self.logit_scale.clamp_(0.0, math.log(self.largest_scale))
        texts, position = self._encoded(encoder, captions)
        own = texts[position]
        loss = info_nce(images, own, self.logit_scale, groups=position)
        with torch.no_grad():
            nearest = (F.normalize(images) @ F.normalize(own).T).argmax(1)
            right = (position[nearest] == position).float().mean()
        return {"info_nce": loss}, {"scale": self.logit_scale.detach().exp(), "sentence accuracy": right}

    def attribute_loss(self, encoder: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Classification of each attribute, by its sentences and by :attr:`classifier`; the sum over the attributes.

        Cosines with the sentences of the classes are the image-to-text half of UniCL (Yang et al., arXiv 2204.03610,
        equation 3). From random weights these sentences are nearly the same vector and teach the image encoder slowly;
        the classifier does not wait for the text encoder.

        Args:
            encoder: of texts.
            images: [B, E].
            labels: classes [B, A], -1 where an image has no value of an attribute.
        """
        texts, position = self._encoded(encoder, self.attribute_tokens)
        by_sentence = self.logit_scale.exp() * F.normalize(images) @ F.normalize(texts[position]).T
        return self._classified(by_sentence, labels) + self._classified(self.classifier(images), labels)

    def _classified(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of the logits [B, S] of all attributes: the sum over them of the mean over the images."""
        losses = [
            F.cross_entropy(part, own, ignore_index=-1, reduction="sum") / (own >= 0).sum().clamp(min=1)
            for part, own in zip(logits.split(self.sizes, dim=1), labels.unbind(1), strict=True)
        ]
        return torch.stack(losses).sum()

    def _encoded(self, encoder: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features [U, E] of the distinct rows of ``tokens`` [N, L], and which of them each row is [N].

        Each distinct sentence is encoded once; several processes divide them.
        """
        sentences, position = tokens.unique(dim=0, return_inverse=True)
        sentences, position = _shortest_first(sentences, position)
        texts = widened(
            sharded(lambda rows: encode_tokens(encoder, self.token_embedding, sentences[rows]), _rows(sentences))
        )
        return texts, position


def _rows(sentences: Tensor) -> Tensor:
    return torch.arange(len(sentences), device=sentences.device)


def _shortest_first(sentences: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """The same sentences by length, so that each process gets some of about the same, and where they are now."""
    order = sentences.argmax(1).argsort(stable=True)
    return sentences[order], order.argsort()[position]


def clip_tensors(image_encoder: nn.Module, text_encoder: nn.Module, alignment: Alignment) -> dict[str, Tensor]:
    """The tensors of both towers under OpenAI's names, as :func:`model.clip.weights.clip_weights` reads them."""
    tensors = {f"visual.{name}": tensor for name, tensor in image_encoder.state_dict().items()}
    tensors |= text_encoder.state_dict()
    tensors |= {"token_embedding.weight": alignment.token_embedding, "logit_scale": alignment.logit_scale}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

"""Training images against whole sentences, as CLIP was (Radford et al., arXiv 2103.00020): stage 0.

Stages 1 and 2 need sentences as embedded tokens alone. Here the words themselves are read, so the token embedding
table and the logit scale are parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss.info_nce import info_nce
from model.base import Terms, TextTower
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
        attributes: from the path to one sentence for each attribute, "" where its value is not known.

    Raises:
        ReIDError: one of them is too long for the text encoder or holds a mark of the tokenizer.
    """

    def __init__(
        self,
        draw: Callable[[str, int], str],
        given: Iterable[str] = (),
        attributes: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        self.draw, self.attributes = draw, attributes
        sentences = list(dict.fromkeys(given))
        refuse_marks(sentences, "a caption")
        tokenize(sentences)

    def __call__(self, path: str, seed: int) -> dict[str, Tensor]:
        """``caption`` [77], zeros behind the end, and ``attributes`` [A, 77], zeros for an unknown value."""
        found = {"caption": tokenize(self.draw(path, seed))[0]}
        if self.attributes is not None:
            found["attributes"] = torch.stack([_tokens(sentence) for sentence in self.attributes(path)])
        return found


@cache
def _tokens(sentence: str) -> Tensor:
    """[77]; of attributes there are few sentences, which every batch repeats."""
    tokens = tokenize(sentence)[0]
    return tokens if sentence else torch.zeros_like(tokens)


class Alignment(nn.Module):
    """The contrast of images with sentences.

    Args:
        text: CLIP's text tower, whose encoder the method registers itself.
        largest_scale: that the logit scale may have; CLIP's is 100.

    Attributes:
        token_embedding: [vocabulary, D].
        logit_scale: logarithm of the factor on cosines; changed in place where it leaves [0, log(largest_scale)].

    Raises:
        ReIDError: the start has no token embeddings.
    """

    def __init__(self, text: TextTower, largest_scale: float = 100.0) -> None:
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

    def attribute_loss(self, encoder: nn.Module, images: Tensor, attributes: Tensor) -> Tensor:
        """Classification of images by sentences, summed over the attributes.

        The classes of an attribute are its values in the batch, each a sentence: the image-to-text half of UniCL (Yang
        et al., arXiv 2204.03610, equation 3) for each attribute.

        Args:
            encoder: of texts.
            images: [B, E].
            attributes: tokens [B, A, L], zeros where an image has no value of an attribute.
        """
        rows, columns = attributes.any(-1).nonzero(as_tuple=True)
        texts, position = self._encoded(encoder, attributes[rows, columns])
        classes = torch.zeros(attributes.shape[1], len(texts), dtype=torch.bool, device=images.device)
        classes[columns, position] = True
        logits = self.logit_scale.exp() * F.normalize(images) @ F.normalize(texts).T
        losses = F.cross_entropy(logits[rows].masked_fill(~classes[columns], -torch.inf), position, reduction="none")
        return (losses / columns.bincount()[columns]).sum()

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

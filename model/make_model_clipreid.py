"""From the configuration to a model with its start weights, or to one that is tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from model.backbones.registry import check_pretraining, make_backbone, pretrained, read_pretraining
from model.base import DataFacts, Method
from model.clip.hands_clip import hands_weights
from model.clip.positions import KnownGrid
from model.clip.weights import is_reid_checkpoint, read_reid_checkpoint, read_state_dict
from model.loading import load_checkpoint, load_part, load_start
from model.methods.registry import METHODS
from utils.console.logger import LOGGER
from utils.errors import ReIDError

if TYPE_CHECKING:
    from yacs.config import CfgNode


def use_start(cfg: CfgNode) -> None:
    """Let a test without ``TEST.WEIGHT`` read the small CLIP where ``MODEL.PRETRAIN_CHOICE`` is hands."""
    if cfg.MODEL.PRETRAIN_CHOICE != "hands" or cfg.TEST.WEIGHT:
        return
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.TEST.WEIGHT = str(hands_weights(cfg))
    if frozen:
        cfg.freeze()
    LOGGER.warning("TEST.WEIGHT is empty: the small CLIP that MODEL.PRETRAIN_CHOICE hands names is tested as it is")


def check_weights(cfg: CfgNode, test: bool = False) -> None:
    """Check that the weights that a run needs are there, before any data is read.

    Args:
        cfg: the configuration.
        test: look for ``TEST.WEIGHT`` and not for what training starts from.

    Raises:
        ReIDError: they are missing and cannot be downloaded.
    """
    if test and not cfg.TEST.WEIGHT:
        raise ReIDError("TEST.WEIGHT is empty: add TEST.WEIGHT and the path of a checkpoint that training wrote.")
    key, path = ("TEST.WEIGHT", cfg.TEST.WEIGHT) if test else ("MODEL.STAGE1_WEIGHT", cfg.MODEL.STAGE1_WEIGHT)
    if path and not Path(path).is_file():
        raise ReIDError(f"{key} = {path!r}: {_no_checkpoint(Path(path))}")
    if not test:
        check_pretraining(cfg)


def _no_checkpoint(path: Path) -> str:
    if not path.is_dir():
        return "no such file. Name the checkpoint that training wrote."
    newest = max(path.glob("*.pth"), key=lambda file: file.stat().st_mtime, default=None)
    return "this is a folder. Name " + (f"a checkpoint in it, such as {newest}." if newest else "a checkpoint.")


def make_model(cfg: CfgNode, facts: DataFacts) -> Method:
    """The method that ``cfg`` describes, for training: from a pre-training, a checkpoint or random weights.

    Args:
        cfg: ``MODEL.*``, ``INPUT.*`` and ``TEST.NECK_FEAT`` are read.
        facts: of the training set.

    Raises:
        ReIDError: weights are missing, unreadable or do not fit.
    """
    method = METHODS[cfg.MODEL.METHOD]
    if method.note:
        LOGGER.info("MODEL.METHOD %s: %s (docs/methods.md)", cfg.MODEL.METHOD, method.note)
    if cfg.MODEL.PRETRAIN_CHOICE == "random":
        LOGGER.info("MODEL.PRETRAIN_CHOICE random: %s starts from random weights", cfg.MODEL.NAME)
        if cfg.MODEL.PRETRAIN_PATH:
            LOGGER.warning("so MODEL.PRETRAIN_PATH = %s is not read", cfg.MODEL.PRETRAIN_PATH)
        return _with_card(cfg, method.build(cfg, make_backbone(cfg), facts, training=True), facts)
    path, tensors = read_pretraining(cfg)
    with _about(path):
        if _is_checkpoint(method, tensors):
            model = method.build(cfg, make_backbone(cfg, method.rename(dict(tensors))), facts, training=True)
            table = load_start(model, tensors, _known_grid(cfg, tensors)).table()
            if hasattr(model, "sentence"):
                LOGGER.warning(
                    "%s has no token embeddings: the fixed words around the prompts stay those that it was trained "
                    "with, whatever the words in %r. MODEL.PROMPT should be its own sentence.",
                    path,
                    model.sentence,
                )
        else:
            backbone, table = pretrained(cfg, path, tensors)
            model = method.build(cfg, backbone, facts, training=True)
    LOGGER.info("%s initialises the model\n%s", path, table)
    return _with_card(cfg, model, facts)


def make_test_model(cfg: CfgNode, seen: DataFacts) -> Method:
    """The model in ``TEST.WEIGHT``, a checkpoint of re-identification or a pre-training as it is, to embed images.

    What the checkpoint was trained for is read from its metadata, or from its tensors' shapes where it has none, so
    neither the pre-training nor the training images are needed.

    Args:
        cfg: the configuration.
        seen: cameras and views of the test data, 0 if unknown, to be compared with those of the training.

    Raises:
        ReIDError: ``TEST.WEIGHT`` is unreadable or does not fit ``cfg`` or the data set.
    """
    path, method = cfg.TEST.WEIGHT, METHODS[cfg.MODEL.METHOD]
    tensors = read_state_dict(path)
    with _about(path):
        if not _is_checkpoint(method, tensors):
            plain = cfg.clone()
            plain.defrost()
            plain.MODEL.SIE_CAMERA = plain.MODEL.SIE_VIEW = False  # a pre-training has no side information
            backbone, table = pretrained(plain, path, tensors)
            LOGGER.info("%s holds a backbone's own weights: zero-shot\n%s", path, table)
            return method.build(plain, backbone, replace(seen, identities=1), training=False)
        card = _card(tensors)
        _check_card(cfg, card)
        state = method.rename(dict(tensors))
        facts = method.facts_in(cfg, state, seen, _facts(card))
        _check_seen(cfg, method, facts, seen)
        model = method.build(cfg, make_backbone(cfg, state), facts, training=False)
        report = load_checkpoint(model, state, _known_grid(cfg, tensors))
    LOGGER.info("%s is read\n%s", path, report.table())
    model.card, model.inputs = card, method.needs(cfg, training=False)
    return model


def load_prompts(model: Method, path: str) -> None:
    """Copy the prompts that stage 1 learned from the checkpoint ``path``.

    Raises:
        ReIDError: they belong to another number of identities or another sentence, or the model has no prompts.
    """
    if not hasattr(model, "prompt_learner"):
        raise ReIDError(f"MODEL.STAGE1_WEIGHT = {path!r}: {type(model).__name__} has no prompts. Leave it empty.")
    with _about(f"MODEL.STAGE1_WEIGHT = {path}"):
        state = read_reid_checkpoint(path)
        model.prompt_learner.check(state, "prompt_learner.")
        report = load_part(model, state, "prompt_learner.")
    LOGGER.info("%s gives the prompts\n%s", path, report.table())


def _is_checkpoint(method: type[Method], tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are a checkpoint of re-identification and not a backbone's pre-training."""
    return bool(_card(tensors)) or is_reid_checkpoint(method.rename(dict(tensors)))


def _card(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint of this project keeps besides tensors (:attr:`Method.card`); empty for other files."""
    record = getattr(tensors, "record", {})
    return record if {"method", "name", "facts"} <= record.keys() else {}


def _known_grid(cfg: CfgNode, tensors: Mapping[str, Tensor]) -> KnownGrid:
    return KnownGrid.of(getattr(tensors, "record", {}), cfg.MODEL.POSITION_GRID)


def _with_card(cfg: CfgNode, model: Method, facts: DataFacts) -> Method:
    """Record the facts that a test needs; the identities' names are personal data, and attributes are for training."""
    model.inputs = type(model).needs(cfg, training=False)
    model.card = {
        "method": cfg.MODEL.METHOD,
        "name": cfg.MODEL.NAME,
        "facts": {key: value for key, value in asdict(facts).items() if key not in ("names", "attributes")},
        "image_size": list(cfg.INPUT.SIZE_TRAIN),
        "grid": list(model.image_encoder.grid),
        "mean": list(cfg.INPUT.PIXEL_MEAN),
        "std": list(cfg.INPUT.PIXEL_STD),
    }
    return model


def _facts(card: Mapping[str, Any]) -> DataFacts | None:
    return DataFacts(**card["facts"]) if card else None


def _check_card(cfg: CfgNode, card: Mapping[str, Any]) -> None:
    """Methods that share the network in front of the seam and the test feature may test each other's checkpoints."""
    if not card:
        return
    own, other = METHODS[cfg.MODEL.METHOD], METHODS.get(card["method"])
    if other is None or own.forward is not other.forward or own.embed is not other.embed:
        raise ReIDError(
            f"it was trained with MODEL.METHOD {card['method']}, but MODEL.METHOD = {cfg.MODEL.METHOD}. Set it to "
            f"{card['method']}."
        )
    if card["name"] != cfg.MODEL.NAME:
        raise ReIDError(f"it was trained with MODEL.NAME {card['name']}, but MODEL.NAME = {cfg.MODEL.NAME}.")


def _check_seen(cfg: CfgNode, method: type[Method], facts: DataFacts, seen: DataFacts) -> None:
    """A test image under a camera or view that training never had has no embedding."""
    needed = method.needs(cfg, training=False)
    for word, known, found in (("cameras", facts.cameras, seen.cameras), ("views", facts.views, seen.views)):
        if word in needed and found > known:
            raise ReIDError(
                f"it was trained with {known} {word}; the data set has {found}. Set MODEL.SIE_CAMERA and "
                "MODEL.SIE_VIEW to False to test without side information."
            )


@contextmanager
def _about(source: object) -> Iterator[None]:
    """Add the file to messages that do not name it."""
    try:
        yield
    except ReIDError as error:
        raise error if str(source) in str(error) else ReIDError(f"{source}: {error}") from None

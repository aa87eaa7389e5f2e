"""Every registered method by its recipe for hands, on the smallest backbone of its family, and a toy batch."""

from dataclasses import replace

import torch

from configs import load_config
from model import METHODS, DataFacts, check_method, make_model
from model.base import Batch, Method, Progress
from model.clip.simple_tokenizer import tokenize
from processor.training.train_step import Encoder, TrainStep
from solver import make_optimizers
from utils.compute.device import Precision

OLD_NAMES = {
    "clipreid": "vit_clipreid",
    "baseline": "vit_base",
    "zeroshot": "vit_zeroshot",
    "coop": "vit_coop",
    "pcl": "vit_pcl",
    "tfmemory": "vit_tfmemory",
}
"""Recipes that are not called like their method."""

SMALLEST = {
    "clip": "ViT-Tiny-16",
    "resnet": "resnet-tiny",
    "osnet": "osnet_x0_25",
    "cdnet": "cdnet-tiny",
    "autoreid": "autoreid-tiny",
    "hrnet": "hrnet-tiny",
    "vit": "vit-tiny",
}
CPU = Precision(torch.device("cpu"), torch.float32)
IDENTITIES, INSTANCES = 4, 2
LABELS = torch.arange(IDENTITIES).repeat_interleave(INSTANCES)
CAPTIONS = ("a left hand", "the palm of a right hand", "a hand with long fingers", "a left hand")
ATTRIBUTES = (("a left hand", "a right hand"), ("the back of a hand", "the palm of a hand", "the side of a hand"))
CLASSES = torch.tensor([[0, 1], [1, -1], [1, 1], [0, 0]])
EXTRA = {
    "caption": lambda size: tokenize(CAPTIONS * 2),
    "attributes": lambda size: CLASSES.repeat(2, 1),
    "cameras": lambda size: torch.arange(len(LABELS)) % 2,
    "views": lambda size: torch.arange(len(LABELS)) % 2,
    "source": lambda size: torch.arange(len(LABELS)) // INSTANCES % 2,
    "keypoints": lambda size: torch.rand(len(LABELS), 21, 3) * torch.tensor([size[1], size[0], 1]),
    "geometry": lambda size: torch.eye(2, 3).expand(len(LABELS), 2, 3),
    "erased": lambda size: torch.zeros(len(LABELS), 4),
    "texture": lambda size: torch.rand(len(LABELS), 3, *size),
}
"""What a batch may hold besides images, by the names of :meth:`Method.needs`."""
SIZE = "[96, 96]"
"""The smallest image that every method can divide into its parts."""


def config(name: str, *overrides: str):
    """The recipe for hands of a method, on the smallest backbone of its family and small images."""
    recipe = f"configs/hand/{OLD_NAMES.get(name, name)}.yml"
    network = SMALLEST[(*METHODS[name].backbones, "clip")[0]]
    small = ["MODEL.NAME", network, "INPUT.SIZE_TRAIN", SIZE, "INPUT.SIZE_TEST", SIZE]
    cfg, _ = load_config(recipe, [*small, "MODEL.PRETRAIN_CHOICE", "random", *overrides])
    check_method(cfg)
    return cfg


def build(cfg, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    names = tuple(f"n{i}" for i in range(IDENTITIES))
    needs = METHODS[cfg.MODEL.METHOD].needs(cfg, training=True)
    attributes = ATTRIBUTES if "attributes" in needs else ()
    facts = DataFacts(IDENTITIES, 2, 2, len(LABELS), names, "A photo of a {} hand.", attributes=attributes)
    return make_model(cfg, facts).train()


def stages(cfg) -> list:
    return [stage for stage in METHODS[cfg.MODEL.METHOD].stages if stage.number in cfg.SOLVER.STAGES]


def toy_batch(cfg, seed: int = 1) -> Batch:
    """Images of four identities, with what the method needs in training."""
    torch.manual_seed(seed)
    size = cfg.INPUT.SIZE_TRAIN
    colour = torch.randn(IDENTITIES, 3, 1, 1).repeat_interleave(INSTANCES, 0)
    loaded = {"images": colour + 0.5 * torch.randn(len(LABELS), 3, *size), "labels": LABELS}
    loaded["index"] = torch.arange(len(LABELS))
    needs = METHODS[cfg.MODEL.METHOD].needs(cfg, training=True)
    loaded |= {name: EXTRA[name](size) for name in sorted(needs)}
    return Batch.of(loaded, needs, CPU.device)


class Images:
    """A :class:`model.base.TrainingSet` over one batch."""

    def __init__(self, method: Method, batch: Batch) -> None:
        self.method, self.batch = method, batch

    @torch.no_grad()
    def features(self, read, side=True):
        batch = self.batch if side else replace(self.batch, cameras=None, views=None)
        return read(self.method.eval()(batch)), self.batch.labels

    def by_identity(self, read):
        rows, labels = self.features(read)
        for label in labels.unique().tolist():
            yield label, (labels == label).nonzero().flatten(), rows[labels == label]


def outputs_of(method: Method, stage, batch: Batch, micro_batches: int = 1, seed: int = 5):
    """What the loop calls in this stage: an encoder, or the cached outputs."""
    if not stage.cached:
        return Encoder(method, CPU, micro_batches, seed)
    images = Images(method, batch)
    cached = {name: images.features(lambda rows, name=name: rows[name], side=False)[0] for name in stage.cached}
    return lambda found, at: ({name: rows[found.index] for name, rows in cached.items()}, found.labels)


def trained(cfg, stage, tmp_path, micro_batches: int = 1):
    """The method when ``stage`` begins, its step and its optimizers."""
    method, batch = build(cfg), toy_batch(cfg)
    optimizers = make_optimizers(cfg, method, stage.number)
    method.eval()
    with torch.no_grad():
        method.begin_epoch(Images(method, batch), Progress(stage.number, 1))
    method.train()
    outputs = outputs_of(method, stage, batch, micro_batches)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step = TrainStep(method, outputs, optimizers, scaler, CPU, 0.0, lambda b: ["x"] * len(b.labels), tmp_path)
    return method, step, optimizers, batch

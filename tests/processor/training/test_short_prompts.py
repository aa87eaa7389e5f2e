"""Stage 1 on cut prompts, one for each identity of a batch, is stage 1 on whole contexts, one for each image."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from configs import load_config
from loss import SupConLoss, contrast_terms
from model.base import Batch
from model.clip.shapes import CLIPShape, TextShape, ViTShape
from model.methods.clipreid import CLIPReID
from processor import do_train_stage1, start_run
from solver import make_optimizers
from tests.model.small import build
from tests.model.whole_prompts import encode_whole
from tests.toy_hands import make_toy_hands, write_config

EPOCHS = 3


def small_model(seed=0):
    torch.manual_seed(seed)
    shape = CLIPShape(ViTShape(64, 2, 16), TextShape(128, 4), 64)
    return build(CLIPReID, shape, 6, sentence="A photo of a X X X X hand.")


@pytest.mark.parametrize("seed", range(3))
def test_features_and_gradients_equal_those_of_77_tokens(seed):
    model = small_model(seed)
    labels = torch.tensor([4, 0, 4, 2, 5])
    assert model.prompt_learner(labels).shape[1] < 15 and model.prompt_learner(labels, whole=True).shape[1] == 77
    weights = torch.randn(5, 64)
    found = []
    for encode in (model.encode_text, lambda chosen: encode_whole(model, chosen)):
        feature = encode(labels)
        (gradient,) = torch.autograd.grad((feature * weights).sum(), model.prompt_learner.cls_ctx)
        found.append((feature.detach(), gradient))
    for cut, whole in zip(*found, strict=True):
        assert (cut - whole).abs().max() <= 1e-5 * max(1.0, float(whole.abs().max()))


def test_what_follows_the_end_of_the_text_is_never_seen():
    """The whole context with other tokens behind the end: the reason why it may be cut."""
    model = small_model()
    labels = torch.arange(6)
    end = model.prompt_learner.end
    whole = model.prompt_learner(labels, whole=True)
    noise = torch.cat([whole[:, : end + 1], torch.randn_like(whole[:, end + 1 :])], dim=1)
    assert torch.allclose(model.text_encoder(whole, end), model.text_encoder(noise, end), atol=1e-5)
    before = whole.clone()
    before[:, 1] += 0.1 * torch.randn_like(before[:, 1])
    assert not torch.allclose(model.text_encoder(whole, end), model.text_encoder(before, end), atol=1e-3)


class Images(torch.utils.data.Dataset):
    """Random pictures, four of each of six identities."""

    pictures = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5))

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return {"images": self.pictures[index], "labels": index // 4, "cameras": 0, "views": 0, "index": index}


class Constant:
    epoch = 0

    def step(self, epoch):
        pass

    def schedule(self, epoch, base):
        return base


def plain_trace(model, cfg):
    """Stage 1 as in the paper, on whole contexts for each image: each epoch's mean loss."""
    stage, losses = cfg.SOLVER.STAGE1, []
    optimizer = torch.optim.Adam([model.prompt_learner.cls_ctx], stage.BASE_LR, weight_decay=stage.WEIGHT_DECAY)
    for epoch in range(1, EPOCHS + 1):
        order = np.random.default_rng((cfg.SOLVER.SEED, 1, epoch)).permutation(24)
        total = 0.0
        for batch in np.array_split(order, range(stage.IMS_PER_BATCH, 24, stage.IMS_PER_BATCH)):
            labels = torch.from_numpy(batch) // 4
            with torch.no_grad():
                image = model.eval()(Batch(Images.pictures[batch]))["projected"]
            loss = sum(contrast_terms(SupConLoss(), image, encode_whole(model, labels), labels).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / 24)
    return losses


def test_loss_trace_equals_that_of_77_tokens(tmp_path):
    file = write_config(make_toy_hands(tmp_path / "hands"), tmp_path / "run")
    options = ("SOLVER.STAGE1.MAX_EPOCHS", str(EPOCHS), "SOLVER.STAGE1.IMS_PER_BATCH", "10")
    cfg, _ = load_config(file, [*options, "SOLVER.STAGE1.BASE_LR", "0.01"])
    cut, whole = small_model(), small_model()

    run = start_run(cfg)
    optimizers = make_optimizers(cfg, cut, 1)
    do_train_stage1(cfg, cut, cut.stages[1], DataLoader(Images(), 8), optimizers, Constant(), run)
    losses = [entry["loss"] for entry in run.history]
    assert losses == pytest.approx(plain_trace(whole, cfg), rel=1e-5, abs=0)
    assert losses[-1] < losses[0] - 0.05  # something was learned: the traces are not equal because nothing moves

"""One iteration: clipped gradients, draws, statistics, and what happens to a loss that is not finite."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from model.base import Batch, Method, Progress
from processor.training.train_step import Encoder, TrainStep
from utils.compute.device import Precision
from utils.errors import ReIDError

CPU = torch.device("cpu")
AT = Progress(2, 3, 2)
EMPTY = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, dtype=torch.long))


class Bare(Method):
    """A method whose losses are a function of its layers."""

    def __init__(self, layers, losses):
        super().__init__()
        self.layers, self.own = layers, losses

    def forward(self, batch, at=None):
        return {"feature": self.layers(batch.images)}

    def losses(self, outputs, labels, at):
        return self.own(outputs), {}

    embed = build = None


def step_of(tmp_path, model, dtype=torch.float32, clip=0.0, scale=None, outputs=None):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    outputs = outputs or (lambda batch, at: ({}, torch.zeros(1)))
    optimizers = [SGD(model.parameters(), lr=1.0)]
    return TrainStep(
        model, outputs, optimizers, scaler, Precision(CPU, dtype), clip, lambda batch: batch.extra["names"], tmp_path
    )


def named(*names):
    return Batch(EMPTY.images, EMPTY.labels, extra={"names": list(names)})


@pytest.mark.parametrize(("clip", "moved"), [(0.0, 5.0), (0.5, 0.5), (9.0, 5.0)])
@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_gradients_are_clipped_to_a_norm(tmp_path, clip, moved, scale):
    """Those of the loss, not of the loss times what float16 needs."""
    layer = nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    model = Bare(layer, lambda _: {"sum": layer(torch.tensor([[3.0, 4.0]])).sum()})
    step_of(tmp_path, model, clip=clip, scale=scale)(EMPTY, AT)
    assert float((layer.weight - before).norm().detach()) == pytest.approx(moved, rel=1e-4)


def test_a_loss_that_is_not_finite_names_step_term_and_files(tmp_path):
    layer = nn.Linear(2, 1)
    model = Bare(layer, lambda _: {"triplet": layer.weight.sum() * torch.inf})
    with pytest.raises(ReIDError, match=r"stage 2 epoch 3, iteration 2.*triplet = .*a\.jpg, b\.jpg, c\.jpg"):
        step_of(tmp_path, model)(named("a.jpg", "b.jpg", "c.jpg", "d.jpg"), AT)
    assert (tmp_path / "not_finite.txt").read_text().split() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_float16_overflow_is_computed_again_in_float32(tmp_path):
    """With the same draws, and statistics that count the batch once."""
    layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(2, 2), nn.BatchNorm1d(2))
    seen = []
    layers[1].register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
    layers[2].register_forward_hook(lambda module, args, out: out * (torch.inf if out.dtype is torch.float16 else 1))
    model = Bare(layers, lambda outputs: {"sum": outputs["feature"].square().sum()}).train()
    images = torch.randn(4, 1, 1, 2)
    precision = Precision(CPU, torch.float16)
    encode = Encoder(model, precision, seed=5)
    result = step_of(tmp_path, model, torch.float16, outputs=encode)(Batch(images, torch.arange(4)), AT)
    assert torch.isfinite(result.loss) and len(seen) == 2 and torch.equal(*seen)
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())
    assert int(layers[3].num_batches_tracked) == 1 and encode.precision == precision


def test_a_loss_that_float32_cannot_save_either_stops_after_one_more_try(tmp_path):
    layer, tries = nn.Linear(2, 1), []

    def outputs(batch, at):
        tries.append(step.precision.dtype)
        return {}, batch.labels

    model = Bare(layer, lambda _: {"id": layer.weight.sum() * torch.nan})
    step = step_of(tmp_path, model, torch.float16, outputs=outputs)
    with pytest.raises(ReIDError, match=r"epoch 3, iteration 2: the loss is not finite \(id = nan\)"):
        step(named("a.jpg"), AT)
    assert tries == [torch.float16, torch.float32]


# ------------------------------------------------------------------------------------------------- in front of the seam


class Drawing(nn.Module):
    """Dropout between two layers, with a BatchNorm of each kind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
        self.last = nn.Linear(8, 4)

    def forward(self, images):
        return self.last(self.first(images).relu())


def gradients(layers, parts, images, seed=3):
    model = Bare(layers, None).train()
    model.zero_grad()
    labels = torch.arange(len(images))
    outputs, found = Encoder(model, Precision(CPU, torch.float32), parts, seed)(Batch(images, labels), AT)
    assert torch.equal(found, labels)
    feature = outputs["feature"]
    (torch.cdist(feature, feature) * torch.arange(len(images) ** 2).view(len(images), -1).sin()).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def recorded(layers, parts, images, seed=3):
    """Gradients where each micro-batch is encoded once, with the draws of the first pass."""
    model = Bare(layers, None).train()
    model.zero_grad()
    encode = Encoder(model, Precision(CPU, torch.float32), parts, seed)
    found = [encode._rows(part, AT, i) for i, part in enumerate(Batch(images, None).split(parts))]
    feature = torch.cat([rows["feature"] for rows in found])
    (torch.cdist(feature, feature) * torch.arange(len(images) ** 2).view(len(images), -1).sin()).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("parts", [2, 4])
def test_a_recomputation_draws_what_the_first_pass_drew(parts):
    torch.manual_seed(0)
    layers, images = Drawing(), torch.randn(8, 3, 2, 2)
    expected, found = recorded(layers, parts, images), gradients(layers, parts, images)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    other = gradients(layers, parts, images, seed=4)
    assert not torch.allclose(other["layers.last.weight"], expected["layers.last.weight"], rtol=1e-2), (
        "another seed, other draws"
    )


def test_drop_path_of_timm_is_drawn_alike_in_a_recomputation():
    torch.manual_seed(0)
    layers = timm.create_model("test_vit", num_classes=0, img_size=32, drop_path_rate=0.5)
    images = torch.randn(6, 3, 32, 32)
    expected, found = recorded(layers, 2, images), gradients(layers, 2, images)
    worst = max(float((found[n] - g).norm() / (1e-12 + g.norm())) for n, g in expected.items() if g.abs().sum() > 1e-3)
    assert worst < 1e-3


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_recomputation_counts_no_batch_norm_twice(norm, momentum):
    torch.manual_seed(0)
    shape = {nn.BatchNorm1d: (3, -1), nn.BatchNorm2d: (3, 2, 2), nn.BatchNorm3d: (3, 1, 2, 2)}[norm]
    layers = nn.Sequential(nn.Unflatten(1, (3,)), nn.Flatten(2), nn.Flatten(), nn.Unflatten(1, shape), norm(3))
    layers[4].momentum = momentum
    layers.append(nn.Flatten())
    by_hand = norm(3, momentum=momentum)
    images = torch.randn(8, 3, 2, 2)
    gradients(layers, 4, images)
    for part in images.chunk(4):
        by_hand(part.view(2, *[-1 if side == -1 else side for side in shape]))
    for name, buffer in by_hand.named_buffers():
        assert torch.equal(buffer, layers[4].get_buffer(name)), name
    assert int(layers[4].num_batches_tracked) == 4


def test_the_process_draws_the_same_behind_the_seam_whatever_the_micro_batches():
    torch.manual_seed(0)
    layers, images = Drawing(), torch.randn(8, 3, 2, 2)
    after = []
    for parts in (1, 4):
        torch.manual_seed(7)
        gradients(layers, parts, images)
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_outputs_in_float64_stay_in_float64():
    model = Bare(nn.Flatten(), None)
    outputs, _ = Encoder(model, Precision(CPU, torch.float32))(
        Batch(torch.randn(2, 3, 1, 1, dtype=torch.float64), torch.arange(2)), AT
    )
    assert outputs["feature"].dtype is torch.float64
    assert F.normalize(outputs["feature"]).dtype is torch.float64

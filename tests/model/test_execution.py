"""Ways to execute a model that save memory or time: the same numbers, gradients and names."""

from functools import partialmethod

import pytest
import torch
import torch.nn.functional as F

from configs import load_config
from model.base import Batch
from model.clip.shapes import CLIPShape, ResNetShape, ViTShape
from model.execution import set_execution
from model.methods.baseline import ImageReID
from processor.training.train_step import Encoder
from tests.model.small import AT, build
from utils.compute.device import Precision
from utils.errors import ReIDError

VIT = CLIPShape(ViTShape(64, 3, 16), None, 32)
RESNET = CLIPShape(ResNetShape(8, (1, 1, 1, 1)), None, 32)
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(8) % 5


def built(shape, *options):
    """The model, and how a batch goes through it."""
    torch.manual_seed(0)
    model = build(ImageReID, shape).train()
    cfg, _ = load_config(None, ["MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]", *options])
    set_execution(cfg, model)
    model.encode = Encoder(model, Precision(torch.device("cpu"), torch.float32), cfg.SOLVER.STAGE2.MICRO_BATCHES)
    return model


def gradients(model, images=IMAGES):
    """A loss that compares all images of the batch, as the triplet loss does, and the gradients of everything."""
    outputs, labels = model.encode(Batch(images, LABELS), AT)
    feature = outputs["feature"]
    loss = F.cross_entropy(model.scores(outputs)[0], labels) + torch.cdist(feature, feature).std()
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def close(one, other, tolerance=1e-5):
    (loss, grads), (other_loss, others) = one, other
    assert abs(loss - other_loss) < tolerance and grads.keys() >= others.keys() and len(others) > 20
    # A compiled encoder gives zeros where the loss needs no gradient.
    assert not any(grads[name].any() for name in grads.keys() - others.keys())
    return all((grads[n] - others[n]).abs().max() <= tolerance * (1 + others[n].abs().max()) for n in others)


def test_checkpointing_gives_the_same_bits():
    (loss, grads), (plain_loss, plain) = (
        gradients(built(VIT, "SOLVER.GRAD_CHECKPOINTING", on)) for on in ("True", "False")
    )
    assert torch.equal(loss, plain_loss) and all(torch.equal(grads[name], plain[name]) for name in plain)


@pytest.mark.parametrize("parts", ["2", "3", "8"])
@pytest.mark.parametrize("checkpointing", ["True", "False"])
def test_a_vit_in_parts_has_the_gradients_of_the_whole_batch(parts, checkpointing):
    divided = built(VIT, "SOLVER.STAGE2.MICRO_BATCHES", parts, "SOLVER.GRAD_CHECKPOINTING", checkpointing)
    whole = built(VIT)
    assert close(gradients(divided), gradients(whole))
    for (name, one), (_, other) in zip(divided.named_buffers(), whole.named_buffers(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name  # the BNNecks saw the whole batch, once


def activation_bytes(model):
    """What autograd keeps between the passes, parameters aside."""
    kept = {}
    own = {p.data_ptr() for p in model.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs, _ = model.encode(Batch(IMAGES, LABELS), AT)
    assert outputs["feature"].requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("option", [("SOLVER.GRAD_CHECKPOINTING", "True"), ("SOLVER.STAGE2.MICRO_BATCHES", "4")])
def test_they_keep_fewer_activations(option):
    assert activation_bytes(built(VIT, *option)) < 0.6 * activation_bytes(built(VIT))


def test_a_resnet_in_parts_normalises_each_and_counts_it_once():
    divided, by_hand = built(RESNET, "SOLVER.STAGE2.MICRO_BATCHES", "2"), built(RESNET)
    gradients(divided)
    for half in IMAGES.chunk(2):
        by_hand(Batch(half))
    for name, buffer in divided.image_encoder.named_buffers():
        assert torch.equal(buffer, dict(by_hand.image_encoder.named_buffers())[name]), name


def test_channels_last_changes_the_layout_alone():
    last, plain = built(RESNET), built(RESNET, "SOLVER.CHANNELS_LAST", "False")
    assert last.image_encoder.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert last.image_encoder.maps(IMAGES)[1].is_contiguous(memory_format=torch.channels_last)
    assert close(gradients(last), gradients(plain), 1e-3)


@pytest.mark.parametrize("shape", [VIT, RESNET])
def test_captured_models_agree_and_keep_their_names(shape, monkeypatch):
    """Everything that torch.compile does but the code of its kernels, which takes a minute."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    compiled_agrees(shape)


@pytest.mark.slow
def test_a_compiled_block_agrees():
    compiled_agrees(CLIPShape(ViTShape(64, 1, 16), None, 32))


def compiled_agrees(shape):
    compiled, plain = built(shape, "SOLVER.COMPILE", "True"), built(shape)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert close(gradients(compiled), gradients(plain), 1e-3)


def test_checkpointing_blocks_that_a_resnet_has_not_is_a_user_error():
    with pytest.raises(ReIDError, match=r"SOLVER\.STAGE2\.MICRO_BATCHES"):
        load_config(None, ["MODEL.NAME", "RN50", "SOLVER.GRAD_CHECKPOINTING", "True"])

"""Numbers of attention heads against timm's networks, PyTorch's attention and the configurations of others."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from model.clip.model import Attention, TextEncoder, make_image_encoder
from model.clip.shapes import ARCHITECTURES, CLIPShape, TextShape, ViTShape, named_shape, shape_of_weights
from model.clip.weights import clip_weights
from tests.model.weight_files import hugging_face
from utils.errors import ReIDError

TIMM = {
    "ViT-B-16": "vit_base_patch16_clip_224",
    "ViT-L-14": "vit_large_patch14_clip_224",
    "ViT-H-14": "vit_huge_patch14_clip_224",
    "ViT-g-14": "vit_giant_patch14_clip_224",
    "ViT-bigG-14": "vit_gigantic_patch14_clip_224",
}


def encoder(shape):
    with torch.device("meta"):
        return make_image_encoder(shape, (224, 224))


@pytest.mark.parametrize("name", TIMM)
def test_sizes_are_those_of_timms_network(name):
    shape = named_shape(name)
    ours = encoder(replace(shape, image=replace(shape.image, layers=1)))  # as many as there are take seconds to build
    with torch.device("meta"):
        theirs = timm.create_model(TIMM[name], num_classes=ours.dims["projected"], depth=1)
    blocks = ours.transformer.resblocks
    assert blocks[0].attn.heads == theirs.blocks[0].attn.num_heads
    assert blocks[0].mlp.c_fc.weight.shape == theirs.blocks[0].mlp.fc1.weight.shape
    theirs_count = sum(p.numel() for p in theirs.parameters())
    # timm's head is a linear layer with a bias, open_clip's a matrix
    assert sum(p.numel() for p in ours.parameters()) == theirs_count - ours.dims["projected"]


@torch.no_grad()
@pytest.mark.parametrize(("width", "heads"), [(1280, 16), (1408, 16), (1664, 16)])
def test_attention_with_wide_heads(width, heads):
    torch.manual_seed(0)
    ours = Attention(width, ViTShape(width, 1, 14).heads, causal=False)
    theirs = nn.MultiheadAttention(width, heads, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 5, width)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=1e-4, atol=1e-5)


def tensors(width, text=64, vocabulary=49408, inner=None):
    """CLIP's tensors of any width, without memory, under OpenAI's names."""
    shape = CLIPShape(ViTShape(width, 1, 14, inner), TextShape(text, 1), 64)
    with torch.device("meta"):
        image, words = encoder(shape), TextEncoder(shape.text, shape.embed_dim)
        table = {"token_embedding.weight": torch.empty(vocabulary, text), "logit_scale": torch.empty(())}
    return {f"visual.{n}": t for n, t in image.state_dict().items()} | words.state_dict() | table


@pytest.mark.parametrize(("width", "inner", "heads"), [(1280, None, 16), (1408, 6144, 16), (1664, 8192, 16)])
def test_open_clips_large_networks_are_read_with_their_heads(width, inner, heads, tmp_path):
    shape = shape_of_weights(clip_weights(tensors(width, 1024, inner=inner), tmp_path / "w.pt"))
    assert (shape.image.heads, shape.image.inner, shape.text.heads) == (heads, inner, 16)
    assert any(shape.image.width == known.image.width for known in ARCHITECTURES.values())


def hf_file(tmp_path, width, configuration=None):
    if configuration is not None:
        (tmp_path / "config.json").write_text(json.dumps(configuration))
    return clip_weights(hugging_face(tensors(width, 512)), tmp_path / "model.safetensors")


def configuration(width, heads):
    text = {"hidden_size": 512, "num_attention_heads": 8}
    return {"vision_config": {"hidden_size": width, "num_attention_heads": heads}, "text_config": text}


def test_heads_of_hugging_faces_networks(tmp_path):
    """Any number is possible there: published widths are known, others need the configuration beside the file."""
    assert shape_of_weights(hf_file(tmp_path, 768)).image.heads == 12
    with pytest.raises(ReIDError, match=r"model.safetensors: the vision transformer has width 192.*config.json"):
        hf_file(tmp_path, 192)
    with pytest.raises(ReIDError, match=r"the vision transformer has 6 attention heads at width 192.*64 channels"):
        hf_file(tmp_path, 192, configuration(192, 6))
    assert shape_of_weights(hf_file(tmp_path, 192, configuration(192, 3))).image.heads == 3
    with pytest.raises(ReIDError, match="has 16 attention heads at width 768"):
        hf_file(tmp_path, 768, configuration(768, 16))


@pytest.mark.parametrize("content", ["{", "[]", '{"vision_config": 3}', '{"model_cfg": []}', '{"vision_config": {}}'])
def test_a_configuration_of_something_else_counts_as_none(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert shape_of_weights(hf_file(tmp_path, 768)).image.heads == 12
    with pytest.raises(ReIDError, match=r"config.json"):
        hf_file(tmp_path, 192)


def test_open_clips_own_configuration_is_compared(tmp_path):
    model = {"vision_cfg": {"width": 768, "head_width": 96}, "text_cfg": {"width": 512, "heads": 8}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    with pytest.raises(ReIDError, match="has 8 attention heads at width 768"):
        clip_weights(tensors(768, 512), tmp_path / "open_clip_model.safetensors")


@pytest.mark.parametrize("rows", [250_100, 49_407, 21_128])
def test_another_vocabulary_is_refused(rows, tmp_path):
    """open_clip's worldwide networks read 250,100 tokens: the numbers of CLIP's tokenizer are other words there."""
    with pytest.raises(ReIDError, match=rf"token_embedding.weight has {rows} rows.*49408"):
        shape_of_weights(clip_weights(tensors(64, vocabulary=rows), tmp_path / "w.pt"))

"""Small CLIP networks in every kind of file that users have."""

import json
import re

import torch
from safetensors.torch import save_file

from model.clip.shapes import CLIPShape, ResNetShape, TextShape, ViTShape
from model.methods.clipreid import CLIPReID
from tests.model.clip.test_weights import archive
from tests.model.small import build

TEXT = TextShape(64, 1)
SHAPES = {
    "ViT-Tiny-16": CLIPShape(ViTShape(64, 2, 16), TEXT, 32),
    "RN-Tiny": CLIPShape(ResNetShape(8, (1, 1, 1, 1)), TEXT, 32),
}
SENTENCE = "A photo of a X X X X person."
KINDS = ["openai", "plain", "open_clip", "hugging_face", "clipreid"]


def small_model(name="ViT-Tiny-16", classes=5, size=(64, 64), stride=None, **options):
    """A CLIP-ReID model with random weights that are the same in every call."""
    torch.manual_seed(3)
    options.setdefault("sentence", SENTENCE)
    model = build(CLIPReID, SHAPES[name], classes, size, stride, **options).eval()
    for module in model.modules():  # statistics that are not those of a fresh network
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def clip_tensors(model):
    """The model's encoders under OpenAI's names, with a token embedding table."""
    tensors = {"token_embedding.weight": 0.02 * torch.randn(49408, 64), "logit_scale": torch.tensor(4.6)}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part in ("image_encoder", "text_encoder"):
            tensors[f"visual.{rest}" if part == "image_encoder" else rest] = tensor.clone()
    return tensors


LAYER = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
LAYER |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
PLAIN = {
    "logit_scale": "logit_scale",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1": "vision_model.embeddings.patch_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
}


def hugging_face(tensors):
    """OpenAI's names -> those of ``CLIPModel`` in transformers (ViTs only)."""
    theirs = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
        if name in ("visual.proj", "text_projection"):
            new = {"visual.proj": "visual_projection.weight"}.get(name, "text_projection.weight")
            theirs[new] = tensor.T.contiguous()
        elif not block:
            known = next(key for key in (name, name.rpartition(".")[0]) if key in PLAIN)
            theirs[PLAIN[known] + name.removeprefix(known)] = tensor
        else:
            visual, number, what, kind = block.groups()
            layer = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}."
            if what == "attn.in_proj":
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    theirs[f"{layer}self_attn.{letter}_proj.{kind}"] = part.clone()
            else:
                theirs[f"{layer}{LAYER[what]}.{kind}"] = tensor
    return theirs


def write(kind, model, path):
    """``model`` as a file of ``kind``; the suffix does not show which."""
    tensors = clip_tensors(model)
    if kind == "openai":
        archive(path, tensors, constants=True)
    elif kind == "plain":
        torch.save(tensors, path)
    elif kind == "open_clip":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": t for name, t in tensors.items()}}, path)
    elif kind == "hugging_face":
        save_file(hugging_face(tensors), path)
        widths = {f"{tower}_config": {"hidden_size": 64, "num_attention_heads": 1} for tower in ("vision", "text")}
        (path.parent / "config.json").write_text(json.dumps(widths))
    else:
        torch.save({f"module.{name}": t for name, t in model.checkpoint().items()}, path)
    return path

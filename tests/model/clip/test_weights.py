"""Reading every form of weights, and refusing other files."""

import io
import os
import pickle
import sys
import zipfile

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

from model.clip.names import to_openai_names
from model.clip.weights import read_clip_weights, read_reid_checkpoint, read_state_dict
from tests.fuzzing import fuzz
from utils.errors import ReIDError

WIDTH, PATCH, EMBED = 8, 4, 6
# PyTorch no longer recommends TorchScript, but OpenAI's files are in it.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")


def block(prefix, seed):
    shapes = {
        "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.out_proj.bias": (WIDTH,),
        "ln_1.weight": (WIDTH,),
        "ln_1.bias": (WIDTH,),
        "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
        "mlp.c_proj.bias": (WIDTH,),
        "ln_2.weight": (WIDTH,),
        "ln_2.bias": (WIDTH,),
    }
    draw = torch.Generator().manual_seed(seed)
    return {prefix + name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def small_clip():
    """A CLIP of two image and one text block, under OpenAI's names; values that half precision keeps."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (5, WIDTH),
        "visual.proj": (WIDTH, EMBED),
        "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        **{f"visual.ln_{where}.{kind}": (WIDTH,) for where in ("pre", "post") for kind in ("weight", "bias")},
        "token_embedding.weight": (20, WIDTH),
        "positional_embedding": (7, WIDTH),
        "ln_final.weight": (WIDTH,),
        "ln_final.bias": (WIDTH,),
        "text_projection": (WIDTH, EMBED),
        "logit_scale": (),
    }
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    for i in (0, 1):
        tensors |= block(f"visual.transformer.resblocks.{i}.", 10 + i)
    tensors |= block("transformer.resblocks.0.", 20)
    return {name: tensor.half().float() for name, tensor in tensors.items()}


CLIP = small_clip()


class Tree(nn.Module):
    """Modules nested as the names say, with parameters at the leaves."""

    def __init__(self, tensors):
        super().__init__()
        children = {}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                children.setdefault(head, {})[rest] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(head, nn.Parameter(tensor.clone(), requires_grad=False))
            else:
                self.register_buffer(head, tensor.clone())
        for head, below in children.items():
            self.add_module(head, Tree(below))

    def forward(self, x):
        return x * self.logit_scale + torch.tensor([0.5, 2.0]).to(x.dtype)


def half(tensors):
    return {name: tensor.half() for name, tensor in tensors.items()}


def archive(path, tensors, dtype=torch.float32, constants=False):
    """What OpenAI published: a traced CLIP, with the sizes as integer tensors."""
    if constants:
        tensors = tensors | {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    tree = Tree(tensors).to(dtype)
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(tree, torch.ones(2, dtype=dtype)), path)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32, name
        assert found[name].is_contiguous() and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_openai_archive(tmp_path, dtype):
    archive(tmp_path / "clip.pt", CLIP, dtype, constants=True)
    assert_same(read_clip_weights(tmp_path / "clip.pt"), CLIP)


def test_archive_agrees_with_torchs_own_loader(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2).half())
    torch.jit.save(torch.jit.script(net), tmp_path / "net.pt")
    expected = torch.jit.load(tmp_path / "net.pt").state_dict()
    found = read_state_dict(tmp_path / "net.pt")
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor.to(found[name].dtype)) for name, tensor in expected.items())
    assert found["1.num_batches_tracked"].dtype == torch.int64


def test_archive_with_attributes_that_are_no_tensors(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(6.0).view(2, 3).t())
            self.numbers, self.name, self.ratio, self.where = [1, 2], "odd", [0.5], torch.device("cpu")
            self.table = {"a": torch.ones(2)}

        def forward(self, x):
            return x @ self.weight * self.numbers[0] * self.ratio[0] + self.table["a"].to(self.where).sum()

    torch.jit.save(torch.jit.script(Odd()), tmp_path / "odd.pt")
    found = read_state_dict(tmp_path / "odd.pt")
    assert list(found) == ["weight"]
    assert found["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_state_dicts(tmp_path, wrap, prefix, zipped):
    content = wrap({prefix + name: tensor for name, tensor in half(CLIP).items()})
    torch.save(content, tmp_path / "any.name", _use_new_zipfile_serialization=zipped)
    assert_same(read_clip_weights(tmp_path / "any.name"), CLIP)


def test_result_does_not_depend_on_the_file(tmp_path):
    torch.save(CLIP, tmp_path / "clip.pt")
    found = read_clip_weights(tmp_path / "clip.pt")
    (tmp_path / "clip.pt").write_bytes(b"\0" * (tmp_path / "clip.pt").stat().st_size)
    assert_same(found, CLIP)


def test_open_clip_custom_text(tmp_path):
    renamed = {n if n.startswith("visual.") or n == "logit_scale" else f"text.{n}": t for n, t in CLIP.items()}
    torch.save({"state_dict": renamed | {"text.attn_mask": torch.zeros(7, 7)}}, tmp_path / "epoch_1.pt")
    assert_same(read_clip_weights(tmp_path / "epoch_1.pt"), CLIP)


def test_modified_resnet(tmp_path):
    draw = torch.Generator().manual_seed(1)
    text = {name: tensor for name, tensor in CLIP.items() if not name.startswith("visual.")}
    image = {
        "visual.conv1.weight": torch.randn(4, 3, 3, 3, generator=draw),
        "visual.bn1.running_var": torch.rand(4, generator=draw),
        "visual.layer1.0.conv1.weight": torch.randn(4, 4, 1, 1, generator=draw),
        "visual.layer1.0.downsample.0.weight": torch.randn(4, 4, 1, 1, generator=draw),
        "visual.layer1.0.downsample.1.running_mean": torch.randn(4, generator=draw),
        "visual.attnpool.positional_embedding": torch.randn(5, 8, generator=draw),
        "visual.attnpool.c_proj.bias": torch.randn(8, generator=draw),
    }
    torch.save(text | image, tmp_path / "rn.pt")
    assert_same(read_clip_weights(tmp_path / "rn.pt"), text | image)


def hugging_face(tensors):
    """The same weights as ``CLIPModel`` of transformers names and lays them out."""
    towers = {"visual.": "vision_model.", "": "text_model."}
    plain = {
        "logit_scale": "logit_scale",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight": "vision_model.post_layernorm.weight",
        "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    }
    theirs = {plain[name]: tensors[name] for name in plain}
    theirs["visual_projection.weight"] = tensors["visual.proj"].T.contiguous()
    theirs["text_projection.weight"] = tensors["text_projection"].T.contiguous()
    layers = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    layers |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for visual, number in (("visual.", 0), ("visual.", 1), ("", 0)):
        ours = f"{visual}transformer.resblocks.{number}."
        layer = f"{towers[visual]}encoder.layers.{number}."
        for kind in ("weight", "bias"):
            parts = tensors[f"{ours}attn.in_proj_{kind}"].split(WIDTH)
            theirs |= {f"{layer}self_attn.{x}_proj.{kind}": t.clone() for x, t in zip("qkv", parts, strict=True)}
            theirs |= {f"{layer}{new}.{kind}": tensors[f"{ours}{old}.{kind}"] for old, new in layers.items()}
    return theirs


def renamed(path):
    """As :func:`read_clip_weights`, for networks too narrow to have heads of 64 channels."""
    return to_openai_names(read_state_dict(path))


@pytest.mark.parametrize("positions", [{}, {"text_model.embeddings.position_ids": torch.arange(7)[None]}])
def test_hugging_face(tmp_path, positions):
    save_file(half(hugging_face(CLIP)) | positions, tmp_path / "model.safetensors")
    assert_same(renamed(tmp_path / "model.safetensors"), CLIP)


def test_hugging_face_attention_is_the_same_function(tmp_path):
    """Separate maps of queries, keys and values against PyTorch's attention with the fused matrix."""
    theirs = hugging_face(CLIP)
    save_file(theirs, tmp_path / "model.safetensors")
    theirs = {name: tensor.double() for name, tensor in theirs.items()}
    ours = {name: tensor.double() for name, tensor in renamed(tmp_path / "model.safetensors").items()}
    x, layer, fused = (
        torch.randn(4, 1, WIDTH, dtype=torch.float64),
        "vision_model.encoder.layers.1.self_attn.",
        nn.MultiheadAttention(8, 2, dtype=torch.float64),
    )
    q, k, v = (F.linear(x[:, 0], theirs[f"{layer}{n}_proj.weight"], theirs[f"{layer}{n}_proj.bias"]) for n in "qkv")
    heads = [t.view(4, 2, 4).transpose(0, 1) for t in (q, k, v)]
    mixed = ((heads[0] @ heads[1].mT / 4**0.5).softmax(-1) @ heads[2]).transpose(0, 1).reshape(4, WIDTH)
    expected = F.linear(mixed, theirs[f"{layer}out_proj.weight"], theirs[f"{layer}out_proj.bias"])
    prefix = "visual.transformer.resblocks.1.attn."
    fused.load_state_dict({n.removeprefix(prefix): t for n, t in ours.items() if n.startswith(prefix)})
    torch.testing.assert_close(fused(x, x, x)[0][:, 0], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("vision_model.encoder.layers.0.self_attn.q_proj.bias"), "q_proj.bias is missing"),
        (
            lambda t: t.update({"text_model.encoder.layers.0.self_attn.k_proj.weight": torch.ones(2)}),
            "one shape",
        ),
        (lambda t: t.update({"vision_model.head.probe": torch.ones(2)}), "vision_model.head.probe"),
        (
            lambda t: t.update({"visual_projection.weight": torch.ones(2)}),
            "visual.proj should have 2 dimensions",
        ),
    ],
)
def test_hugging_face_misfits(tmp_path, change, message):
    tensors = hugging_face(CLIP)
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ReIDError, match=message):
        renamed(tmp_path / "model.safetensors")


def without(name):
    return {n: t for n, t in CLIP.items() if n != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (CLIP | {"visual.trunk.cls_token": torch.ones(1)}, "has no visual.trunk.cls_token"),
        (CLIP | {"logit_bias": torch.ones(1)}, "has no logit_bias"),
        (without("visual.class_embedding"), "there is no visual.class_embedding"),
        (without("token_embedding.weight"), "there is no token_embedding.weight"),
        (
            CLIP | {"visual.conv1.weight": torch.ones(3)},
            "visual.conv1.weight should have 4 dimensions.*\\[3\\]",
        ),
        (
            {"layer1.0.conv1.weight": torch.ones(1), "fc.weight": torch.ones(1)},
            "has no layer1.0.conv1.weight, fc.w",
        ),
    ],
)
def test_other_models(tmp_path, tensors, message):
    torch.save(tensors, tmp_path / "other.pt")
    with pytest.raises(ReIDError, match=f"other.pt.*{message}"):
        read_clip_weights(tmp_path / "other.pt")


REID = {
    "prompt_learner.cls_ctx": torch.ones(2, 4, WIDTH),
    "image_encoder.conv1.weight": torch.ones(2, 3, 4, 4).half(),
    "classifier.weight": torch.ones(3, WIDTH),
    "bottleneck.num_batches_tracked": torch.tensor(4),
}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reid_checkpoint(tmp_path, prefix):
    torch.save({prefix + name: tensor for name, tensor in REID.items()}, tmp_path / "ViT-B-16_60.pth")
    found = read_reid_checkpoint(tmp_path / "ViT-B-16_60.pth")
    assert found.keys() == REID.keys()
    assert found["image_encoder.conv1.weight"].dtype == torch.float32
    assert found["bottleneck.num_batches_tracked"].dtype == torch.int64
    with pytest.raises(ReIDError, match=r"CLIP-ReID checkpoint.*TEST.WEIGHT"):
        read_clip_weights(tmp_path / "ViT-B-16_60.pth")


def test_clip_weights_are_no_reid_checkpoint(tmp_path):
    torch.save(CLIP, tmp_path / "clip.pt")
    with pytest.raises(ReIDError, match=r"CLIP's own weights, for MODEL.PRETRAIN_PATH"):
        read_reid_checkpoint(tmp_path / "clip.pt")
    torch.save({"classifier.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(ReIDError, match=r"something else. It has classifier.weight"):
        read_reid_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"<html>", "web page"),
        (b"just some text", "not a file of weights"),
        (b"PK\x03\x04 and no more", "damaged or cut short"),
        (b"\x80\x02garbage", "damaged or cut short"),
        (b"\x80", "damaged or cut short"),
        (b"\x02\0\0\0\0\0\0\0{!", "damaged or cut short|not a file of weights"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, message):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ReIDError, match=f"w.pt: .*({message})"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], {}, {"epoch": 3}, {1: torch.ones(2)}])
def test_files_without_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ReIDError, match=r"w.pt: .*(not a state dict|no tensors)"):
        read_state_dict(tmp_path / "w.pt")


def test_sparse_tensors(tmp_path):
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "w.pt")
    with pytest.raises(ReIDError, match="a is not a dense tensor"):
        read_state_dict(tmp_path / "w.pt")


def test_missing_file_folder_and_other_zip(tmp_path):
    with pytest.raises(ReIDError, match=r"none.pt: no such file"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(ReIDError, match="this is a folder"):
        read_state_dict(tmp_path)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(ReIDError, match="zip archive without PyTorch weights"):
        read_state_dict(tmp_path / "w.zip")


def test_safetensors_is_optional(tmp_path, monkeypatch):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ReIDError, match="pip install safetensors"):
        read_state_dict(tmp_path / "w.safetensors")


def saved(kind):
    """A small valid file of each kind, as bytes."""
    buffer = io.BytesIO()
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 2).half()}
    if kind == "archive":
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    elif kind == "safetensors":
        return save(tensors)
    else:
        torch.save(tensors, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


KINDS = {kind: saved(kind) for kind in ("archive", "zip", "legacy", "safetensors")}


# Hostile files.


class Hostile:
    """Makes a folder when a reader unpickles it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path, zipped):
    torch.save({"a": Hostile(tmp_path / "ran")}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ReIDError, match=r"holds more than plain tensors: loading it would run (posix|nt).mkdir"):
        read_state_dict(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


def test_pickled_model_and_plain_pickle(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ReIDError, match=r"torch.nn.modules.linear.Linear.*Save the state dict"):
        read_state_dict(tmp_path / "model.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": Hostile(tmp_path / "ran")}))
    with pytest.raises(ReIDError):
        read_state_dict(tmp_path / "plain.pt")
    assert not (tmp_path / "ran").exists()


def forged(tmp_path, data=None, compression=zipfile.ZIP_STORED, storage=None):
    """A TorchScript archive with another ``data.pkl``, other storages or compressed members."""
    with (
        zipfile.ZipFile(io.BytesIO(KINDS["archive"])) as real,
        zipfile.ZipFile(tmp_path / "w.pt", "w") as file,
    ):
        for name in real.namelist():
            content = real.read(name)
            if name.endswith("/data.pkl") and data is not None:
                content = data
            if "/data/" in name and storage is not None:
                content = storage
            file.writestr(name, content, compression)
    return tmp_path / "w.pt"


def test_forged_archive_that_is_fine(tmp_path):
    assert list(read_state_dict(forged(tmp_path))) == ["weight", "bias"]


MODULE = b"c__torch__\nM\n)\x81"
"""Opcodes that make an empty module."""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02cos\nmkdir\n(X\x03\x00\x00\x00rantR.", "would run os.mkdir"),
        (b"\x80\x02cbuiltins\neval\n.", "would run builtins.eval"),
        (b"\x80\x04\x8c\x05torch\x8c\x04load\x93.", "would run torch.load"),
        (b"\x80\x02}.", "holds no module"),
        (b"\x80\x02r\xff\xff\xff\xff.", "memo number is out of range"),
        (b"\x80\x02" + MODULE + b"(I1\nI2\nI3\nd", "damaged"),
        # A module whose attribute "a" is itself: no tensors, and an end.
        (b"\x80\x02" + MODULE + b"q\x00}X\x01\x00\x00\x00ah\x00sb.", "no tensors"),
        # Modules nested deeper than Python's stack.
        (
            b"\x80\x02" + (MODULE + b"}X\x01\x00\x00\x00a") * 3000 + b"N" + b"sb" * 3000 + b".",
            "RecursionError",
        ),
    ],
)
def test_forged_pickles(tmp_path, data, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReIDError, match=message):
        read_state_dict(forged(tmp_path, data))
    assert not (tmp_path / "ran").exists()


def test_forged_storages(tmp_path):
    with pytest.raises(ReIDError, match="is compressed"):
        read_state_dict(forged(tmp_path, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(ReIDError, match="has 3 bytes"):
        read_state_dict(forged(tmp_path, storage=b"abc"))


def test_expanded_tensor_is_not_unfolded(tmp_path):
    """One stored number that claims to be 10^12 of them."""
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "w.pt")
    with pytest.raises(ReIDError, match="a claims 1000000000000 elements"):
        read_state_dict(tmp_path / "w.pt")


def read_or_refuse(path, content):
    path.write_bytes(content)
    try:
        return read_state_dict(path)
    except ReIDError as error:
        assert str(path) in str(error)
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files(tmp_path, kind):
    whole = KINDS[kind]
    assert read_or_refuse(tmp_path / "w", whole)
    for end in range(1, len(whole), max(1, len(whole) // 40)):
        assert read_or_refuse(tmp_path / "w", whole[:end]) is None


RELAXED = fuzz(150)


@RELAXED
@given(st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{"]), st.binary(max_size=200))
def test_random_bytes(tmp_path, start, noise):
    assert read_or_refuse(tmp_path / "w", start + noise) is None


@RELAXED
@given(st.sampled_from(sorted(KINDS)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6))
def test_damaged_files(tmp_path, kind, damage):
    """Whichever bytes are wrong, the reader returns tensors or raises an error for the user."""
    content = bytearray(KINDS[kind])
    for where, value in damage:
        content[int(where * (len(content) - 1))] = value
    read_or_refuse(tmp_path / "w", bytes(content))


@RELAXED
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_pickle_in_an_archive(tmp_path, damage):
    """With a right checksum, so that the unpickler itself meets the wrong bytes."""
    with zipfile.ZipFile(io.BytesIO(KINDS["archive"])) as file:
        name = next(name for name in file.namelist() if name.endswith("/data.pkl"))
        data = bytearray(file.read(name))
    for where, value in damage:
        data[int(where * (len(data) - 1))] = value
    read_or_refuse(tmp_path / "w", forged(tmp_path, bytes(data)).read_bytes())

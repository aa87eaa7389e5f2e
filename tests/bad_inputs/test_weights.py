"""Weights from untrusted sources: CLIP's and checkpoints of the model, in every format."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from functools import partial

import pytest
import torch
from torch import nn
from torch.serialization import set_crc32_options

from model.clip.weights import read_clip_weights, read_reid_checkpoint, read_state_dict
from tests.bad_inputs.kit import Case, Hostile, cases, judge

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
NAME = "image_encoder.conv1.weight"
HEAD = {NAME: torch.ones(2, 3, 4, 4)}
NOT_TENSORS = "holds more than plain tensors: loading it would run .*It was not run"
DAMAGED = "damaged or cut short"


def pickled(content, zipped=True):
    """``torch.save`` of what ``content`` makes, once the canary has its place."""
    return lambda path: torch.save(content(), path, _use_new_zipfile_serialization=zipped)


def rezipped(change):
    """A good ``torch.save`` file whose members ``change`` has changed: name -> bytes."""

    def make(path):
        buffer = io.BytesIO()
        torch.save(HEAD, buffer)
        with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
            members = {name: old.read(name) for name in old.namelist()}
            for name, content in change(members).items():
                new.writestr(name, content)

    return make


def swap(ending, content):
    return rezipped(lambda members: {n: content if n.endswith(ending) else c for n, c in members.items()})


def tensors(header, body=b"\0" * 64, length=None):
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(offsets, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def old_tar(path):
    """The format of 2016: a tar whose members are pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Hostile())
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def scripted(path):
    """TorchScript with code that raises an error when it runs."""

    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(4.0))

        def forward(self, x):
            raise RuntimeError("ran")

    torch.jit.save(torch.jit.script(Loud()), path)


def huge_legacy(path):
    """A storage that claims 2**60 bytes."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3)}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue().replace(b"K\x03", b"\x8a\x08" + struct.pack("<q", 1 << 60)))


def bomb(path):
    """Compressed members: a few kilobytes that unfold to 200 MB."""
    buffer = io.BytesIO()
    torch.save(HEAD, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, b"\0" * 200_000_000 if "/data/" in name else old.read(name))


def flipped_bit(path, checked=True):
    set_crc32_options(checked)
    torch.save(HEAD, path)
    set_crc32_options(True)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(2).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def last_storage_short(path):
    """The pickle claims a storage that ends beyond the end of the file."""
    buffer = io.BytesIO()
    torch.save({NAME: torch.ones(1000)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in sorted(old.namelist(), key=lambda name: name.endswith("data/0")):
            new.writestr(name, b"" if name.endswith("data/0") else old.read(name))


def strided():
    """A view that claims more elements than its storage has, as only a forged file can: by a stride of 0."""
    return {NAME: torch.ones(1).expand(1 << 40)}


def overlapping():
    part = torch.arange(6.0)
    return {NAME: part[:4], "classifier.weight": part[2:]}


WEIGHTS = cases(
    Case("order.pth", pickled(lambda: {"a": Hostile()}), NOT_TENSORS),
    Case("order-legacy.pth", pickled(lambda: {"a": Hostile()}, zipped=False), NOT_TENSORS),
    Case("order-eval.pth", pickled(lambda: {"a": Hostile(eval)}), NOT_TENSORS),
    Case("order-system.pth", pickled(lambda: {"a": Hostile(os.system)}), NOT_TENSORS),
    Case("order-nested.pth", pickled(lambda: {"state_dict": {"model": [{"b": (1, Hostile())}]}}), NOT_TENSORS),
    Case("order-key.pth", pickled(lambda: {"a": torch.ones(2), "optimizer": {"state": Hostile()}}), NOT_TENSORS),
    Case("plain.pkl", lambda path: path.write_bytes(pickle.dumps(Hostile())), f"{NOT_TENSORS}|{DAMAGED}"),
    Case("plain-0.pth", lambda path: path.write_bytes(pickle.dumps(Hostile(), protocol=0)), "not a file of weights"),
    Case("whole-model.pth", pickled(lambda: nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    Case("old-tar.pth", old_tar, "not a file of weights"),
    Case("script.pt", scripted, lambda found: found["weight"].tolist() == [0, 1, 2, 3]),
    Case("huge-legacy.pth", huge_legacy, DAMAGED),
    Case("bomb.pth", bomb, "compressed, which torch.save never does"),
    Case("other-pickle.pth", swap("data.pkl", b"\x80\x02cos\nmkdir\nX\x06\x00\x00\x00canary\x85R."), NOT_TENSORS),
    Case("no-storage.pth", rezipped(lambda m: {n: c for n, c in m.items() if "/data/" not in n}), DAMAGED),
    # Forged numbers are accepted, since anybody can write numbers; none may come from outside the file.
    Case("short-storage.pth", swap("data/0", b"\0\0"), lambda found: found[NAME].shape == (2, 3, 4, 4)),
    Case("last-storage-short.pth", last_storage_short, f"{DAMAGED}|claims"),
    Case("flipped-bit.pth", flipped_bit, "its part flipped-bit/data/0 does not have its checksum"),
    Case("flipped-bit-without-checksums.pth", partial(flipped_bit, checked=False), lambda found: NAME in found),
    Case("climbing.pth", rezipped(lambda m: {"../../" + n: c for n, c in m.items()}), DAMAGED),
    Case("only-readme.zip", rezipped(lambda m: {"readme": b"hello"}), "zip archive without PyTorch weights"),
    Case("two-pickles.pth", rezipped(lambda m: m | {"evil/data.pkl": b"cos\nmkdir\n."}), DAMAGED),
    Case("stride-0.pth", pickled(strided), "claims 1099511627776 elements"),
    Case("shared.pth", pickled(overlapping), lambda found: found["classifier.weight"].tolist() == [2, 3, 4, 5]),
    Case("quantized.pth", pickled(lambda: {"a": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}), "."),
    Case("sparse.pth", pickled(lambda: {"a": torch.eye(3).to_sparse()}), "not a dense tensor"),
    Case("header-endless.safetensors", tensors({"a": entry((0, 16))}, length=1 << 62), "not a file of weights"),
    Case("header-huge.safetensors", tensors(b"{" + b" " * 200, length=150), DAMAGED),
    Case("header-deep.safetensors", tensors(b'{"a":' * 50_000), DAMAGED),
    Case("header-twice.safetensors", tensors(b'{"a":%s,"a":%s}' % ((json.dumps(entry((0, 16))).encode(),) * 2)), "."),
    Case("overlap.safetensors", tensors({"a": entry((0, 16)), "b": entry((8, 24))}), DAMAGED),
    Case("outside.safetensors", tensors({"a": entry((0, 16)), "b": entry((16, 1 << 50), (1 << 48,))}), DAMAGED),
    Case("backward.safetensors", tensors({"a": entry((16, 0))}), DAMAGED),
    Case("overflow.safetensors", tensors({"a": entry((0, 16), (1 << 62, 1 << 62))}), DAMAGED),
    Case("negative.safetensors", tensors({"a": entry((0, 16), (-4,))}), DAMAGED),
    Case("strange-type.safetensors", tensors({"a": entry((0, 16), dtype="O64")}), DAMAGED),
    Case("empty.pth", b"", "the file is empty"),
    Case("pointer.pth", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    Case("page.pth", b"\n<!DOCTYPE html><script>x</script>", "web page"),
    Case("hdf5.h5", b"\x89HDF\r\n\x1a\n" + bytes(500), "not a file of weights"),
    Case("array.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}", "not a file of weights"),
    Case("program.pth", b"#!/bin/sh\nmkdir $REID_CANARY\n", "not a file of weights"),
    Case("folder.pth", lambda path: path.mkdir(), "this is a folder"),
    Case("pipe.pth", os.mkfifo, "no such file"),
    Case("loop.pth", lambda path: path.symlink_to(path), "no such file"),
    Case("device.pth", lambda path: path.symlink_to("/dev/zero"), "no such file"),
    Case("gone.pth", lambda path: None, "no such file"),
)


@WEIGHTS
@pytest.mark.timeout(60)
def test_weights(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the canary of code that names no folder
    judge(case, tmp_path, read_state_dict)


@pytest.mark.parametrize("read", [read_clip_weights, read_reid_checkpoint])
def test_the_readers_of_both_kinds_refuse_code_too(tmp_path, read):
    judge(Case("order.pth", pickled(lambda: HEAD | {"a": Hostile()}), NOT_TENSORS), tmp_path, read)

"""Reading the golden numbers: arrays with tolerances, and weights and images made from their recipes.

The numbers come from the published CLIP-ReID (GitHub Syliz517/CLIP-ReID, commit eb1898b) run in float32 on a CPU. Every
tolerance is ten times the distance between its float32 and float64 runs. ``PARITY_KIT=<folder>`` reads another kit of
the same form in place of the files of this folder.
"""

import json
import os
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
KIT = Path(os.environ.get("PARITY_KIT", HERE))
"""Holds ``index.json``, ``manifests/`` and ``cases/``."""
CASES = KIT / "cases"


@cache
def index():
    return json.loads((KIT / "index.json").read_text())


@cache
def case(name):
    """Arrays of one case file."""
    with np.load(CASES / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def assert_agrees(name, array, found, factor=1.0):
    """``found`` lies within the stored tolerance of the golden ``array`` of case ``name``."""
    golden, atol = case(name)[array], index()[name]["arrays"][array]["atol"]
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert found.shape == golden.shape, (array, found.shape, golden.shape)
    worst = float(np.abs(found.astype(np.float64) - golden).max())
    assert worst <= factor * atol, f"{array}: off by {worst:.3g}, allowed {factor * atol:.3g}"


def recipe(seed, name, shape, offset=0.0, scale=1.0, absolute=False):
    """The tensor that seed and name stand for."""
    key = zlib.crc32(f"{seed}:{name}".encode()) & 0xFFFFFFFF
    numbers = np.random.RandomState(key).standard_normal(shape)
    return (offset + scale * (np.abs(numbers) if absolute else numbers)).astype(np.float32)


@cache
def manifest(name):
    return json.loads((KIT / "manifests" / f"{name}.json").read_text())


@cache
def tensors(name):
    """All tensors of a manifest by name."""
    return tensors_of(manifest(name))


def tensors_of(manifest):
    """All tensors of a manifest by name; each is checked against the checksum of its numbers."""
    made = {}
    for entry in manifest["tensors"]:
        if entry["dtype"] == "int64":
            made[entry["name"]] = torch.tensor(entry["value"]).expand(entry["shape"]).clone()
            continue
        array = recipe(manifest["seed"], entry["name"], entry["shape"], entry["offset"], entry["scale"], entry["abs"])
        made[entry["name"]] = checked(array, entry)
    return made


def checked(array, entry):
    """A float32 array as a tensor, after comparing its checksum with the recipe's."""
    assert zlib.crc32(np.ascontiguousarray(array).tobytes()) == entry["crc32"], entry["name"]
    return torch.from_numpy(np.asarray(array))


def images(spec, labels=None):
    """The image batch that ``{seed, name, n, H, W}`` stands for [n, 3, H, W]."""
    seed, name, n, height, width = (spec[key] for key in ("seed", "name", "n", "H", "W"))
    cells = (n, 3, height // 32, width // 32)

    def up(cell):
        return cell.astype(np.float64).repeat(32, axis=-2).repeat(32, axis=-1)

    coarse = up(recipe(seed, f"{name}.coarse", cells))
    fine = recipe(seed, f"{name}.fine", (n, 3, height, width)).astype(np.float64)
    if labels is None:
        made = 0.8 * coarse + 0.3 * fine
    else:
        ident = recipe(seed, f"{name}.ident", (spec["n_ident"], *cells[1:]))
        made = 0.8 * up(ident[labels]) + 0.5 * coarse + 0.3 * fine
    return checked(made.astype(np.float32), spec)

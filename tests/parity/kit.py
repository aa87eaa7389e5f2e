"""Reading the golden numbers: arrays with tolerances, and weights and images made from their recipes.

The numbers come from the published CLIP-ReID (GitHub Syliz517/CLIP-ReID, commit eb1898b) run in float32 on a CPU. Every
tolerance is ten times the distance between its float32 and float64 runs.
"""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


@cache
def index():
    return json.loads((HERE / "index.json").read_text())


@cache
def case(name):
    """Arrays of one case file."""
    with np.load(HERE / f"{name}.npz") as file:
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
    return json.loads((HERE / "manifests" / f"{name}.json").read_text())


@cache
def tensors(name):
    """All tensors of a manifest by name; each is checked against the checksum of its first entries."""
    made = {}
    for entry in manifest(name)["tensors"]:
        if entry["dtype"] == "int64":
            made[entry["name"]] = torch.tensor(entry["value"])
            continue
        array = recipe(
            manifest(name)["seed"], entry["name"], entry["shape"], entry["offset"], entry["scale"], entry["abs"]
        )
        assert zlib.crc32(np.ascontiguousarray(array).tobytes()) == entry["crc32"], entry["name"]
        made[entry["name"]] = torch.from_numpy(np.asarray(array))
    return made


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
    made = made.astype(np.float32)
    assert zlib.crc32(made.tobytes()) == spec["crc32"], name
    return torch.from_numpy(made)

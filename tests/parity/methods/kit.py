"""Reading the golden numbers of a compared method: ``index.json``, ``manifest*.json`` and ``cases.npz`` of its folder.

A test file makes one :class:`Golden` and says by name patterns how each array is computed::

    golden = Golden("pcb")

    @golden.array(r"pcb\\.eval\\.(feature)")
    def evaluated(name): ...

    test_array = golden.test()

The test runs over the arrays that the kit has. It fails with the name of an array that no pattern describes; arrays of
a part that is refused are named with the reason by :meth:`Golden.refuse`.
"""

import json
import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from solver.lr_scheduler import multistep_factor
from tests.parity.kit import checked, images, recipe, tensors_of

HERE = Path(__file__).parent
NO_KIT = "<no kit>"


class Golden:
    """The golden numbers of one method; seeds, sizes, labels, slices and tolerances are those of its files."""

    def __init__(self, name):
        self.folder = Path(os.environ.get("PARITY_KIT", HERE)) / name
        self.patterns: dict[str, Callable] = {}
        self.refused: dict[str, str] = {}

    @cached_property
    def index(self):
        return json.loads((self.folder / "index.json").read_text())

    @property
    def meta(self):
        return self.index["meta"]

    @cached_property
    def stored(self):
        with np.load(self.folder / "cases.npz") as file:
            return {name: file[name] for name in file.files}

    @property
    def names(self):
        """Arrays to compare with."""
        if not (self.folder / "index.json").is_file():
            return [NO_KIT]
        return [name for name, entry in self.index["arrays"].items() if entry["role"] != "input"]

    def manifest(self, name="manifest"):
        return json.loads((self.folder / f"{name}.json").read_text())

    def state(self, *manifests, prefix="", dtype=torch.float32):
        """Tensors of the manifests by their published names, of those that begin with ``prefix``."""
        made = {}
        for name in manifests or ("manifest",):
            manifest = self.manifest(name)
            entries = [entry for entry in manifest["tensors"] if entry["name"].startswith(prefix)]
            made |= tensors_of(manifest | {"tensors": entries})
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in made.items()}

    def only_stored_gradients(self, method, names, prefix=""):
        """Let only those parameters train whose gradients are stored: the others' take most of the time.

        Args:
            method: whose parameters are meant.
            names: own names by published ones.
            prefix: of the names of the arrays.
        """
        entries = [e for name, e in self.index["arrays"].items() if name.startswith(prefix)]
        stored = {names[e["source"]] for e in entries if e["role"] == "gradient" and e.get("source") in names}
        for name, parameter in method.named_parameters():
            parameter.requires_grad_(name in stored)

    def input(self, name, dtype=torch.float32):
        """A stored input, or one that its recipe makes; floating-point numbers in ``dtype``."""
        if name in self.index["inputs"]:
            made = _from_recipe(self.index["inputs"][name])
        else:
            assert self.index["arrays"][name]["role"] == "input", name
            made = torch.from_numpy(self.stored[name].copy())
        return made.to(dtype) if made.is_floating_point() else made.long()

    def labels(self, name):
        """Labels [B] of ``meta``."""
        return torch.tensor(self.meta[name])

    def array(self, pattern):
        """Decorator: the function gets the pattern's groups and returns the whole array, before its slice."""

        def register(compute):
            assert pattern not in self.patterns
            self.patterns[pattern] = compute
            return compute

        return register

    def refuse(self, pattern, reason):
        """Arrays of a part that the project does not build, see docs/methods.md."""
        self.refused[pattern] = reason

    def test(self):
        """The test of every array."""

        @pytest.mark.parametrize("name", self.names)
        def test_array(name):
            assert name != NO_KIT, f"{self.folder} holds no golden numbers (index.json)"
            self.check(name)

        return test_array

    def check(self, name):
        for pattern, reason in self.refused.items():
            if re.fullmatch(pattern, name):
                assert reason
                return
        matches = [(f, m) for pattern, f in self.patterns.items() if (m := re.fullmatch(pattern, name))]
        assert len(matches) == 1, f"array {name}: {len(matches)} patterns of this test file describe it"
        compute, match = matches[0]
        self.assert_agrees(name, compute(*match.groups()))

    def assert_agrees(self, name, found):
        """``found``, the whole array, lies within the tolerance of the stored part of it."""
        entry, golden = self.index["arrays"][name], self.stored[name]
        found = found.detach() if isinstance(found, torch.Tensor) else torch.as_tensor(found)
        found = _sliced(found, entry.get("slice")).numpy()
        assert found.shape == golden.shape, (name, found.shape, golden.shape)
        if entry.get("exact") or "atol" not in entry or golden.dtype.kind in "iub":
            np.testing.assert_array_equal(found, golden, err_msg=name)
            return
        golden = golden.astype(np.float64)
        allowed = np.full(golden.shape, entry["atol"])
        if "rtol" in entry:
            size = np.abs(golden)
            allowed = entry["rtol"] * size + entry["rtol_floor"] * size.max()
        off = np.abs(found.astype(np.float64) - golden)
        assert np.isfinite(off).all(), name
        worst = (off - allowed).argmax()
        assert (off <= allowed).all(), f"{name}: off by {off.flat[worst]:.3g}, allowed {allowed.flat[worst]:.3g}"

    def source(self, name):
        """The published name of the parameter or buffer behind an array."""
        return self.index["arrays"][name]["source"]


class GivenMap(torch.nn.Module):
    """A backbone whose images are the map already."""

    def __init__(self, channels):
        super().__init__()
        self.dims = {"map": channels, "feature": channels}
        self.third = self.layer4 = torch.nn.Identity()

    def forward(self, images):
        return {"map": images, "feature": images.mean((2, 3))}


def load_published(method, state):
    """Load a published state dict and return own names by published ones; each tensor must have its place."""
    renamed = type(method).rename(dict(state))
    method.load_state_dict(renamed)
    own = {id(tensor): name for name, tensor in renamed.items()}
    return {name: own[id(tensor)] for name, tensor in state.items() if id(tensor) in own}


def _from_recipe(spec):
    kind = spec.get("kind")
    if kind == "kit.images":
        return images(spec)
    if kind == "cells3":
        return _cells(spec)
    assert kind is None, f"input of unknown kind {kind!r}"
    made = recipe(spec["seed"], spec["name"], spec["shape"], spec["offset"], spec["scale"], spec["abs"])
    return checked(made, spec)


def _cells(spec):
    """``grid`` x ``grid`` cells of one colour, and noise."""
    n, height, width, grid = (spec[key] for key in ("n", "H", "W", "grid"))
    fine = recipe(spec["seed"], f"{spec['name']}.fine", (n, 3, height, width)).astype(np.float64)
    coarse = recipe(spec["seed"], f"{spec['name']}.coarse", (n, 3, grid, grid)).astype(np.float64)
    row, column = (np.arange(size) * grid // size for size in (height, width))
    made = spec["fine"] * fine + spec["coarse"] * coarse[:, :, row][:, :, :, column]
    return checked(made.astype(np.float32), spec)


def _sliced(array, text):
    """The stored part of an array by its description, such as ``[:, ::16, 0, 0]`` or ``flat[::max(1, numel//256)]``."""
    if not text:
        return array
    if text.startswith("flat"):
        flat = array.flatten()
        step, count = re.fullmatch(r"flat\[::max\(1, numel//(\d+)\)\]\[:(\d+)\]", text).groups()
        return flat[:: max(1, flat.numel() // int(step))][: int(count)]
    return array[tuple(_index(part.strip()) for part in text[1:-1].split(","))]


def _index(text):
    if text == "...":
        return ...
    if ":" not in text:
        return int(text)
    return slice(*(int(part) if part else None for part in text.split(":")))


def multistep_rates(base, solver):
    """The rate of each epoch of a stage; the published codes count epochs from 0, ours from 1."""
    schedule = {"milestones": solver.STEPS, "gamma": solver.GAMMA}
    schedule |= {key: solver[key.upper()] for key in ("warmup_factor", "warmup_iters", "warmup_method")}
    return torch.tensor([base * multistep_factor(epoch, **schedule) for epoch in range(solver.MAX_EPOCHS)])

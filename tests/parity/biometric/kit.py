"""Golden numbers of biometric evaluation: inputs, expected values and tolerances, all read from the kit's files.

``PARITY_KIT=<folder>`` reads ``<folder>/parity_biometric/`` in place of the copy here. The copy's README gives the
definitions.
"""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ["PARITY_KIT"]) / "parity_biometric" if "PARITY_KIT" in os.environ else Path(__file__).parent


@cache
def index():
    return json.loads((FOLDER / "index.json").read_text())["cases"]


@cache
def arrays():
    with np.load(FOLDER / "cases.npz") as file:
        return {name: file[name] for name in file.files}


def value(entry):
    """The array or scalar of an entry."""
    return arrays()[entry["array"]] if "array" in entry else np.float64(entry["value"])


def case(name):
    """Inputs of a case by name; scalars as Python numbers."""
    entries = index()[name]["inputs"]
    return {key: value(entry) if "array" in entry else entry["value"] for key, entry in entries.items()}


def expected(name):
    return index()[name]["expected"]


def names(prefix):
    """The cases whose names begin so; at least one."""
    found = [name for name in index() if name.startswith(prefix)]
    assert found, f"the kit in {FOLDER} has no case {prefix}..."
    return found


def check(name, found, float32=False):
    """Every expected value of case ``name`` is in ``found`` and lies within its tolerance.

    ``float32`` takes the tolerance for scores that were computed again from float32 features, where there is one.
    """
    wrong = []
    for key, entry in expected(name).items():
        if key not in found:
            wrong.append(f"{key}: not computed")
            continue
        wanted = np.asarray(value(entry), dtype=np.float64)
        got = np.asarray(found[key], dtype=np.float64)
        atol = entry.get("atol_float32", entry["atol"]) if float32 else entry["atol"]
        if got.shape != wanted.shape:
            wrong.append(f"{key}: shape {got.shape}, expected {wanted.shape}")
        elif not np.allclose(got, wanted, rtol=entry["rtol"], atol=atol, equal_nan=True):
            wrong.append(f"{key}: {got.ravel()[:4]}, expected {wanted.ravel()[:4]} (atol {atol:g})")
    assert not wrong, f"{name}: {len(wrong)} of {len(expected(name))} values differ\n" + "\n".join(wrong)

"""Every key of the defaults is read by the code: an unread key would have no effect."""

import ast
from pathlib import Path

import pytest

from configs import get_defaults

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("datasets", "loss", "model", "processor", "solver", "utils", ".")
    for path in sorted((ROOT / folder).glob("**/*.py" if folder != "." else "*.py"))
]

BIOMETRICS = [path.stem for path in sorted((ROOT / "processor" / "biometrics").glob("*.py"))]

PARAMETERS = {
    ("solver/make_optimizer_prompt.py", "solver"): ["SOLVER.STAGE0", "SOLVER.STAGE1", "SOLVER.STAGE2"],
    ("model/base.py", "solver"): ["SOLVER.STAGE0", "SOLVER.STAGE1", "SOLVER.STAGE2"],
    ("model/methods/baseline.py", "solver"): ["SOLVER.STAGE0", "SOLVER.STAGE1", "SOLVER.STAGE2"],
    ("solver/scheduler_factory.py", "stage"): ["SOLVER.STAGE0", "SOLVER.STAGE1", "SOLVER.STAGE2"],
    ("solver/scheduler_factory.py", "stage_cfg"): ["SOLVER.STAGE0", "SOLVER.STAGE1", "SOLVER.STAGE2"],
    ("processor/training/training_loop.py", "plan.solver"): ["SOLVER.STAGE0", "SOLVER.STAGE1", "SOLVER.STAGE2"],
    ("datasets/__init__.py", "keys"): ["DATASETS", "DATASETS.SYNTHETIC"],
    **{(f"processor/biometrics/{file}.py", "keys"): ["TEST"] for file in BIOMETRICS},
}
"""Parameters, and attributes of parameters, that are a group of keys instead of the whole configuration, by file."""


def dotted(node, names):
    """The groups or keys that an expression stands for: ``cfg.MODEL.NAME`` is MODEL.NAME, ``stage.GAMMA`` two."""
    if isinstance(node, ast.Name):
        return [""] if node.id == "cfg" else names.get(node.id, [])
    if isinstance(node, ast.Subscript) and dotted(node.value, names) == ["SOLVER"]:  # cfg.SOLVER[f"STAGE{number}"]
        return ["SOLVER.STAGE0", "SOLVER.STAGE1", "SOLVER.STAGE2"]
    if isinstance(node, ast.Attribute):
        if ast.unparse(node) in names:
            return names[ast.unparse(node)]
        return [f"{group}.{node.attr}".lstrip(".") for group in dotted(node.value, names)]
    return []


def keys_read(source, parameters):
    """Dotted names of everything that is read of the configuration in ``source``."""
    read = set()
    tree = ast.parse(source)
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.Lambda | ast.Module):
            continue
        names = dict(parameters)
        for node in ast.walk(scope):
            if not isinstance(node, ast.Assign):
                continue
            (target,) = node.targets[:1]
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            names |= {t.id: dotted(v, names) for t, v in pairs if isinstance(t, ast.Name) and dotted(v, names)}
        for node in ast.walk(scope):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read |= set(dotted(node, names))
    return read


def all_leaves(node, prefix=""):
    for key, value in node.items():
        yield from all_leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


@pytest.fixture(scope="module")
def read():
    found = set()
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        parameters = {word: groups for (file, word), groups in PARAMETERS.items() if file == name}
        found |= keys_read(path.read_text(encoding="utf-8"), parameters)
    return found


@pytest.mark.parametrize("key", list(all_leaves(get_defaults())))
def test_key_is_read(key, read):
    assert key in read, f"nothing outside configs/ reads {key}"


def test_everything_read_exists(read):
    """The other way round: a misspelt key in code that tests never reach."""
    known = set(all_leaves(get_defaults()))
    groups = {key.rsplit(".", n)[0] for key in known for n in (1, 2) if "." in key}
    # What is read through a shared parameter belongs to one of the groups it stands for.
    parts = {part for key in known for part in key.split(".")}
    shared = {f"{group}.{part}" for words in PARAMETERS.values() for group in words for part in parts}
    unknown = {key for key in read if key.isupper()} - known - groups - shared
    assert not unknown


def test_the_search_is_strict():
    source = """
def f(cfg):
    stage = cfg.SOLVER.STAGE2
    model, number = cfg.MODEL, 3
    return stage.GAMMA, model.NAME, other.SEED, "cfg.SOLVER.SEED"  # cfg.SOLVER.SEED
"""
    assert keys_read(source, {}) == {"SOLVER", "SOLVER.STAGE2", "SOLVER.STAGE2.GAMMA", "MODEL", "MODEL.NAME"}

"""``pip install -e .``: pyproject.toml names what there is."""

import fnmatch
import importlib
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_package_and_script_is_installed():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert {name.removesuffix("*") for name in SETUPTOOLS["packages"]["find"]["include"]} == packages
    assert set(SETUPTOOLS["py-modules"]) == {path.stem for path in ROOT.glob("*.py")}
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_every_folder_of_modules_is_a_package():
    for name in SETUPTOOLS["packages"]["find"]["include"]:
        folders = {path.parent for path in ROOT.glob(f"{name.removesuffix('*')}/**/*.py")}
        assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_every_file_that_is_no_module_is_package_data():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    inside = [name for name in tracked if name.partition("/")[0] + "*" in SETUPTOOLS["packages"]["find"]["include"]]
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, kinds in SETUPTOOLS["package-data"].items()
        for pattern in kinds
    ]
    others = [name for name in inside if not name.endswith(".py")]
    assert not [name for name in others if not any(fnmatch.fnmatch(name, p.replace("**/", "*")) for p in patterns)]


def test_the_dependencies_are_those_of_the_requirements_files():
    dynamic = SETUPTOOLS["dynamic"]
    files = dynamic["dependencies"]["file"] + [
        f for group in dynamic["optional-dependencies"].values() for f in group["file"]
    ]
    assert sorted(files) == sorted(path.name for path in ROOT.glob("requirements*.txt"))

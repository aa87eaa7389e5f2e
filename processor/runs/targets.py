"""The data sets of ``TEST.TARGETS``: each has a configuration that differs from the run's in its images alone."""

from __future__ import annotations

from pathlib import Path

from yacs.config import CfgNode

from configs import load_config
from utils.errors import ReIDError

OF_THE_RUN = ("CHECK_IMAGES", "BAD_IMAGES", "CACHE", "CACHE_GB", "CACHE_DIR")
"""Keys of ``DATASETS`` that do not select images."""

OF_THE_FILES = ("EXIF", "WHITE")
"""Keys of ``INPUT`` that say how the files of a data set are to be read."""


def target_configs(cfg: CfgNode) -> dict[str, CfgNode]:
    """The configuration of each target by its name, the name of its file without the ending.

    Of a target's file ``DATASETS`` and :data:`OF_THE_FILES` count; sizes, normalisation and the test protocol are the
    run's.

    Raises:
        ReIDError: a file is missing or wrong, or two have one name.
    """
    targets: dict[str, CfgNode] = {}
    for file in map(Path, cfg.TEST.TARGETS):
        if file.suffix.lower() not in (".yml", ".yaml"):
            raise ReIDError(
                f"TEST.TARGETS: {str(file)!r} is not a YAML file. Name configurations on whose DATASETS the model is "
                "tested, such as configs/hand/hand_11k.yml."
            )
        if file.stem in targets:
            raise ReIDError(
                f"TEST.TARGETS: two files are named {file.stem}, which is the name of the target in the table. Rename "
                "one, or name each file once."
            )
        targets[file.stem] = _on_other_images(cfg, file)
    return targets


def _on_other_images(cfg: CfgNode, file: Path) -> CfgNode:
    try:
        given, _ = load_config(file)
    except ReIDError as error:
        raise ReIDError(f"TEST.TARGETS: {error}") from None
    target = cfg.clone()
    target.defrost()
    for key in given.DATASETS.keys() - set(OF_THE_RUN):
        target.DATASETS[key] = given.DATASETS[key]
    for key in OF_THE_FILES:
        target.INPUT[key] = given.INPUT[key]
    target.TEST.TARGETS = []
    target.TEST.DIST_MAT = ""
    target.freeze()
    return target

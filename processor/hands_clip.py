"""Make the small CLIP of MODEL.PRETRAIN_CHOICE hands: draw hands, train stage 0 on them and sentences, pack the result.

The file in float16, without the rows that training left at their start, and its card are written into the package. The
same command resumes what was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from yacs.config import CfgNode

from configs import load_config
from model.clip.hands_clip import CARD, COMMAND, FILE, card, packed, start_tensors
from model.clip.weights import read_state_dict
from processor.runs.folder import read_metrics
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.logger import LOGGER, setup_console
from utils.errors import ReIDError
from utils.files.checkpoint import save_json, write_atomically

RECIPE = "configs/hand/hands_clip.yml"
CARD_KEYS = ("MODEL.", "INPUT.", "DATASETS.SYNTHETIC.", "DATALOADER.", "SOLVER.")
"""How keys begin whose changes the card names; paths are left out."""
ROOT = Path(__file__).resolve().parents[1]


def make(output: Path, overrides: Sequence[str]) -> None:
    """Train, pack, measure.

    Raises:
        ReIDError: a run failed.
    """
    cfg, _ = load_config(ROOT / RECIPE, overrides)
    seed, weights = cfg.SOLVER.SEED, output / "start.safetensors"
    output.mkdir(parents=True, exist_ok=True)
    if not weights.is_file():
        save_file(start_tensors(seed), weights)
    _run(output / "training", ["MODEL.PRETRAIN_PATH", str(weights), *overrides])
    file = output / FILE.name  # the package's own file is replaced when everything about the new one is known
    content = packed(read_state_dict(output / "training" / f"{cfg.MODEL.NAME}_clip.safetensors"), seed)
    write_atomically(file, lambda target: target.write(content))
    measured = ["MODEL.METHOD", "zeroshot", "SOLVER.STAGES", "[]", "MODEL.PRETRAIN_PATH", str(file)]
    _run(output / "zeroshot", [*measured, *overrides])
    write_card(output, overrides)


def write_card(output: Path, overrides: Sequence[str]) -> None:
    """Put the finished file into the package with its card."""
    cfg, _ = load_config(ROOT / RECIPE, overrides)
    content = (output / FILE.name).read_bytes()
    FILE.parent.mkdir(exist_ok=True)
    write_atomically(FILE, lambda target: target.write(content))
    save_json(_card(cfg, overrides, content, output), CARD)
    LOGGER.info("%s, %.1f MB, with its card beside it", FILE, len(content) / 1e6)
    LOGGER.info("on people it has not seen: %s", json.dumps(card()["zero-shot accuracy"]))


def _run(folder: Path, settings: Sequence[str]) -> None:
    command = [sys.executable, str(ROOT / "train_clipreid.py"), "--config_file", str(ROOT / RECIPE), *settings]
    command += ["OUTPUT_DIR", str(folder)]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise ReIDError(f"the run in {folder} ended with status {status}; its messages say why. Repeat the command.")


def _card(cfg: CfgNode, overrides: Sequence[str], content: bytes, output: Path) -> dict[str, Any]:
    """The card of the file: recipe, data, seed, figures."""
    drawn = cfg.DATASETS.SYNTHETIC
    changes = {
        key: value for key, value in zip(overrides[::2], overrides[1::2], strict=True) if key.startswith(CARD_KEYS)
    }
    train, test = drawn.TRAIN_IDS * drawn.IMAGES_PER_ID, drawn.TEST_IDS * drawn.IMAGES_PER_ID
    trained = read_metrics(output / "training/metrics.json")
    tested = read_metrics(output / "zeroshot/metrics.json")["results"]
    text, last = tested["text: attributes"], trained["results"]
    return {
        "what": "RN-Small with its text encoder, trained from random weights on drawn hands and sentences about them",
        "command": COMMAND,
        "recipe": RECIPE,
        "changes to the recipe": changes,
        "seed": cfg.SOLVER.SEED,
        "data": f"{drawn.TRAIN_IDS} drawn hands, {train} pictures, drawing seed {drawn.SEED}",
        "epochs": len(trained["history"]),
        "seconds": round(trained["seconds"]),
        "device": trained["environment"]["device"],
        "logit scale": round(trained["history"][-1]["scale"], 3),
        "measured on": f"{drawn.TEST_IDS} other drawn hands, {test} pictures, same drawing seed",
        "zero-shot accuracy": {name: round(value, 2) for name, value in text["accuracy"].items()},
        "largest value": {name: round(value, 2) for name, value in text["largest value"].items()},
        "recall": {
            name: {key: round(last[name][key], 2) for key in ("Rank-1", "Rank-5")}
            for name in last
            if name.startswith(("image to sentence", "sentence to image"))
        },
        "re-identification as it is": {key: round(tested["zero-shot"][key], 2) for key in ("mAP", "Rank-1", "Rank-5")},
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m processor.hands_clip", __doc__, (COMMAND,))
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the training and its test")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="pairs that override the recipe")
    arguments = parser.parse_intermixed_args(argv)
    setup_console(aside=False)
    return run_script(partial(make, arguments.output, arguments.opts))


if __name__ == "__main__":
    sys.exit(main())

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
from model.clip.hands_clip import CARD, COMMAND, FILE, packed, start_tensors
from model.clip.weights import read_state_dict
from processor.runs.folder import read_metrics
from utils.arguments import make_parser
from utils.checkpoint import save_json, write_atomically
from utils.command_line import run_script
from utils.errors import ReIDError
from utils.logger import LOGGER, setup_console

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
    seed, start = cfg.SOLVER.SEED, output / "start.safetensors"
    output.mkdir(parents=True, exist_ok=True)
    if not start.is_file():
        save_file(start_tensors(seed), start)
    _run(output / "train", ["MODEL.PRETRAIN_PATH", str(start), *overrides])
    trained = read_state_dict(output / "train" / f"{cfg.MODEL.NAME}_clip.safetensors")
    file = output / FILE.name  # the package's own file is replaced when everything about the new one is known
    write_atomically(file, lambda target: target.write(packed(trained, seed)))
    measured = ["MODEL.METHOD", "zeroshot", "SOLVER.STAGES", "[]", "MODEL.PRETRAIN_PATH", str(file), *overrides]
    _run(output / "zeroshot", measured)
    content = _card(
        cfg,
        overrides,
        file,
        read_metrics(output / "train/metrics.json"),
        read_metrics(output / "zeroshot/metrics.json"),
    )
    write_atomically(FILE, lambda target: target.write(file.read_bytes()))
    save_json(content, CARD)
    LOGGER.info("%s, %.1f MB, with its card beside it", FILE, FILE.stat().st_size / 1e6)
    LOGGER.info("on people it has not seen: %s", json.dumps(content["zero-shot accuracy"]))


def _run(folder: Path, settings: Sequence[str]) -> None:
    command = [sys.executable, str(ROOT / "train_clipreid.py"), "--config_file", str(ROOT / RECIPE), *settings]
    command += ["OUTPUT_DIR", str(folder)]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise ReIDError(f"the run in {folder} ended with status {status}; its messages say why. Repeat the command.")


def _card(
    cfg: CfgNode, overrides: Sequence[str], file: Path, trained: dict[str, Any], tested: dict[str, Any]
) -> dict[str, Any]:
    """The card of the file: recipe, data, seed, figures."""
    drawn = cfg.DATASETS.SYNTHETIC
    changes = {
        key: value for key, value in zip(overrides[::2], overrides[1::2], strict=True) if key.startswith(CARD_KEYS)
    }
    train, test = drawn.TRAIN_IDS * drawn.IMAGES_PER_ID, drawn.TEST_IDS * drawn.IMAGES_PER_ID
    text = tested["results"]["text: attributes"]
    last = trained["results"]
    return {
        "what": "RN-Small with its text encoder, trained from random weights on drawn hands and sentences about them",
        "command": COMMAND,
        "recipe": RECIPE,
        "changes to the recipe": changes,
        "seed": cfg.SOLVER.SEED,
        "data": f"{drawn.TRAIN_IDS} drawn hands, {train} pictures, drawing seed {drawn.SEED}",
        "epochs": cfg.SOLVER.STAGE0.MAX_EPOCHS,
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
        "re-identification as it is": {
            key: round(tested["results"]["zero-shot"][key], 2) for key in ("mAP", "Rank-1", "Rank-5")
        },
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m processor.hands_clip", __doc__, (COMMAND,))
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the two runs")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="pairs that override the recipe")
    arguments = parser.parse_intermixed_args(argv)
    setup_console(aside=False)
    return run_script(partial(make, arguments.output, arguments.opts))


if __name__ == "__main__":
    sys.exit(main())

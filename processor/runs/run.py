"""One run and its folder: set-up, state during training, and resuming after an interruption."""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torchvision
from torch import nn

from configs import get_defaults
from configs.checks import schedule_notes
from configs.renamed import RENAMED
from processor.runs.folder import back_up, flatten, holds_training
from processor.runs.states import TrainingStates
from processor.runs.targets import target_configs
from utils.compute.device import Precision, busy_note, choose_device, choose_precision
from utils.compute.distributed import from_main, is_main, on_main_process, world_size
from utils.compute.seed import reproducibility_note, seed_everything
from utils.console.folder_lock import hold_folder
from utils.console.logger import LOGGER, setup_logger
from utils.errors import ReIDError
from utils.files.checkpoint import model_file, remove_unfinished, write_atomically
from utils.files.paths import ShortPaths
from utils.retrieval.points import require_opencv
from utils.retrieval.search import require_faiss
from utils.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yacs.config import CfgNode

    from datasets.bases import Record
    from utils.images import Windows

FREE_TO_CHANGE = (
    "OUTPUT_DIR",
    "RESUME",
    "CHECKPOINT_MINUTES",
    "CHECKPOINTS_KEPT",
    "MODEL.DEVICE",
    "DATASETS.ROOT_DIR",
    "DATASETS.LISTING",
    "DATASETS.CHECK_IMAGES",
    "DATASETS.CACHE",
    "DATALOADER.NUM_WORKERS",
    "TEST.",
    ".CHECKPOINT_PERIOD",
    ".LOG_PERIOD",
    ".EVAL_PERIOD",
)
"""Keys, or their beginnings or ends, that may change when a run resumes: no training step sees them."""

VALIDATED_WITH = frozenset(f"TEST.{key}" for key in ("AP", "METRIC", "FLIP", "FEAT_NORM", "FEATURE", "NECK_FEAT"))
"""Keys that choose the best epoch where images are held out: there they may not change."""


class TrainingProgress(NamedTuple):
    """How far training has come: ``steps`` iterations of ``epoch`` of ``stage``, ``ended`` if these are all."""

    stage: int = 0
    epoch: int = 0
    steps: int = 0
    ended: bool = False


class Stateful(Protocol):
    """Anything with a state: model, optimizer, loss, scaler, averages."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...


@dataclass
class Run:
    """State that all parts of a run share.

    Attributes:
        precision: device and number format.
        output_dir: folder of everything the run writes.
        settings: every configuration key, flat; a run is continued only with the same.
        minutes: between two saved states within an epoch.
        kept: how many of these states stay.
        history: one entry an epoch, as written to ``metrics.json``.
        results: numbers of each evaluation by name.
        best: epoch and mAP of the best validation so far, empty before the first.
        alignment: by stage, how well sentences and images fit before its first epoch, see
            :mod:`processor.training.alignment`.
        position: how far training has come.
        unclaimed: states of parts that have not been built yet.
        parts_saved: names of the parts in the newest state.
        trained: parameters that a stage has trained, with their sizes.
        data: fingerprint of the training images.
        seconds_before: spent by earlier, interrupted runs.
        shorten: texts that name files, for all that is written.
        suffix: of files that would otherwise replace those of a training in the same folder.
        started: when this one began, as a reading of ``time.perf_counter``.
    """

    precision: Precision
    output_dir: Path
    settings: dict[str, Any] = field(default_factory=dict)
    minutes: float = 10.0
    kept: int = 2
    history: list[dict] = field(default_factory=list)
    results: dict[str, dict] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    alignment: dict[str, dict[str, float]] = field(default_factory=dict)
    position: TrainingProgress = field(default_factory=TrainingProgress)
    unclaimed: dict[str, dict] = field(default_factory=dict)
    parts_saved: list[str] = field(default_factory=list)
    trained: dict[str, int] = field(default_factory=dict)
    data: str = ""
    seconds_before: float = 0.0
    shorten: ShortPaths = field(default_factory=ShortPaths)
    suffix: str = ""
    started: float = field(default_factory=time.perf_counter)

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self.precision.device

    @property
    def seconds(self) -> float:
        """Since the run began, interruptions not counted."""
        return self.seconds_before + time.perf_counter() - self.started

    @property
    def states(self) -> TrainingStates:
        """The saved states of this run."""
        return TrainingStates(self.output_dir / "resume", self.kept)

    def describe_device(self) -> str:
        """Device and number format in words."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        several = f"{world_size()} x " if world_size() > 1 else ""
        return f"{several}{name}, {str(self.precision.dtype).removeprefix('torch.')}"

    def save(self, position: TrainingProgress, parts: Mapping[str, Stateful]) -> None:
        """Keep ``position`` and the states of ``parts``, from which the run can resume; the first process does it.

        Raises:
            ReIDError: the model has diverged: a state with it would take the place of a good one.
        """
        _check_finite(parts["model"].state_dict(), position)
        self.position = position
        self.parts_saved = list(parts)
        if not is_main():
            return
        self.states.save(
            {
                "settings": self.settings,
                "position": list(position),
                "history": self.history,
                "results": self.results,
                "best": self.best,
                "alignment": self.alignment,
                "seconds": self.seconds,
                "data": self.data,
                "parts": {name: part.state_dict() for name, part in parts.items()},
            }
        )

    def resume(self, source: str) -> None:
        """Find the state to resume from; ``source`` is ``auto``, ``never`` or another run's folder.

        This run's own states come first, so that a run that started from another's resumes its own. All processes
        resume from what the first one finds, however many there were before. A training that does not resume its own
        states keeps the numbers of the one before as a backup.

        Raises:
            ReIDError: the state belongs to another configuration, or ``source`` is no word and no folder with a state.
        """
        state, folder = from_main(partial(self._find_state, source))
        if state is not None:
            _check_shape(state, folder)
            _check_same(state["settings"], self.settings, folder)
            if state["best"]:
                on_main_process(partial(self._bring_best, folder.parent))
        if self.settings["SOLVER.STAGES"] and (state is None or folder != self.states.folder):
            on_main_process(self._set_numbers_aside)
        if state is None:
            return
        self.position = TrainingProgress(*state["position"])
        self.history, self.results = state["history"], state["results"]
        self.best, self.alignment = state["best"], state.get("alignment", {})
        self.data, self.seconds_before = state["data"], state["seconds"]
        self.unclaimed = state["parts"]
        self.parts_saved = list(state["parts"])
        stage, epoch, steps, ended = self.position
        done = "complete" if ended else f"{number_of(steps, 'iteration')} done"
        LOGGER.info("resuming at stage %d, epoch %d, %s; to start over: RESUME never", stage, epoch, done)

    def _find_state(self, source: str) -> tuple[dict[str, Any] | None, Path]:
        """The state that ``source`` names, and the folder it lies in."""
        states = self.states
        for folder in (self.output_dir, states.folder):
            remove_unfinished(folder)
        if source == "never":
            states.clear()
            return None, states.folder
        state = states.load()
        if source == "auto" or _started_from(state) == source:
            return state, states.folder
        _check_source(source)
        if state is not None:
            LOGGER.warning("RESUME = %s is not used: %s has states of its own", source, self.output_dir)
            return state, states.folder
        states = TrainingStates(Path(source) / "resume")
        state = states.load()
        if state is None:
            raise ReIDError(f"RESUME = {source!r}: no saved state in {states.folder}. Name a run's OUTPUT_DIR.")
        return state, states.folder

    def _bring_best(self, folder: Path) -> None:
        """The best model so far belongs to the state; it lies beside ``resume/``.

        Raises:
            ReIDError: it is missing.
        """
        own = model_file(self.output_dir, self.settings["MODEL.NAME"], "best")
        source = folder / own.name
        if not source.is_file():
            raise ReIDError(
                f"{source}: the best checkpoint of the run to resume is missing. Restore it, set "
                "RESUME to never to start over, or choose another OUTPUT_DIR."
            )
        if folder.resolve() != self.output_dir.resolve():
            with source.open("rb") as file:
                write_atomically(own, lambda target: shutil.copyfileobj(file, target))

    def _set_numbers_aside(self) -> None:
        """Move the numbers of another run to a backup."""
        path = self.output_dir / "metrics.json"
        if path.exists():
            LOGGER.info("the numbers of the run before are in %s", back_up(path).name)

    def check_data(self, records: Sequence[Record], windows: Windows | None = None) -> None:
        """Note which images this run trains on; where they lie does not matter, their names, labels and windows do.

        Raises:
            ReIDError: the run to resume was trained on others.
        """
        data = fingerprint(records, windows=windows)
        if self.position.epoch and self.data != data:
            raise ReIDError(
                f"{self.output_dir}: the run to resume was trained on other images, labels or key points than the "
                f"{len(records)} training images found now. Restore the old ones, set RESUME to never "
                "to start over, or choose another OUTPUT_DIR."
            )
        self.data = data

    def note_trained(self, model: nn.Module) -> None:
        """Note which parameters the stage that begins trains: those that require gradients."""
        self.trained |= {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}

    def finish(self) -> None:
        """Keep of the states only what a finished run is tested again with: the last model, without its optimizers."""
        if not is_main() or not self.position.ended or set(self.parts_saved) <= {"model"}:
            return
        state = self.states.load()
        if state is None:
            return
        state["parts"] = {"model": state["parts"]["model"]}
        TrainingStates(self.states.folder, kept=1).save(state)
        self.parts_saved = ["model"]

    def restore(self, parts: Mapping[str, Stateful]) -> None:
        """Give each of ``parts`` the state that was saved under its name, if there is one.

        Raises:
            ReIDError: the state does not fit the part.
        """
        for name, part in parts.items():
            if name in self.unclaimed:
                try:
                    part.load_state_dict(self.unclaimed.pop(name))
                except Exception as error:  # each part raises errors of its own
                    raise ReIDError(
                        f"{self.states.folder}: the saved {name} does not fit this run ({str(error)[:300]}). Set "
                        "RESUME to never to start over, or choose another OUTPUT_DIR."
                    ) from None


def fingerprint(*splits: Sequence[Record], windows: Windows | None = None) -> str:
    """SHA-256 of which images there are: their file names, labels and the windows that are used of them, in order.

    Where they lie does not matter.
    """

    def line(record: Record) -> str:
        window = windows.get(record.path) if windows else None
        return f"{Path(record.path).name}\0{record.pid}\0{record.camid}\0{record.viewid}{window or ''}\n"

    text = "\n".join("".join(map(line, split)) for split in splits)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def start_run(cfg: CfgNode, notes: Sequence[str] = (), test: bool = False) -> Run:
    """Choose the device, seed everything, open the log, find what to resume, keep the configuration in ``OUTPUT_DIR``.

    Args:
        cfg: the configuration.
        notes: logged first.
        test: this run only tests; it leaves the files of a training in the same folder as they are.

    Raises:
        ReIDError: there is no such device, ``OUTPUT_DIR`` cannot be written to or another training is running in
            it, or the run in it may not be resumed.
    """
    if cfg.TEST.SEARCH == "faiss":
        require_faiss()
    if cfg.TEST.POINTS != "0":
        require_opencv("TEST.POINTS")
    precision = choose_precision(cfg.SOLVER.PRECISION, choose_device(cfg.MODEL.DEVICE, cfg.MODEL.DEVICE_ID))
    run = Run(precision, Path(cfg.OUTPUT_DIR), flatten(cfg), cfg.CHECKPOINT_MINUTES, cfg.CHECKPOINTS_KEPT)
    everything = [run.settings, *(flatten(target) for target in target_configs(cfg).values())]
    run.shorten = ShortPaths(value for keys in everything for value in keys.values() if isinstance(value, str))
    run.suffix = "_test" if test and (run.states.folder.is_dir() or holds_training(run.output_dir)) else ""
    try:
        run.output_dir.mkdir(parents=True, exist_ok=True)
        if not test and is_main():
            hold_folder(run.output_dir)
        setup_logger(run.output_dir / "train_log.txt", run.shorten)
    except OSError as error:
        raise ReIDError(
            f"OUTPUT_DIR = {run.output_dir}: the log cannot be written ({error.strerror}). Check its permissions and "
            "the disk."
        ) from None
    seed_everything(cfg.SOLVER.SEED, cfg.SOLVER.DETERMINISTIC)  # all processes alike: they start as one model
    LOGGER.info("%s; torch %s, torchvision %s, Python %s", run.describe_device(), *_versions())
    on_bits = reproducibility_note(run.device, cfg.SOLVER.DETERMINISTIC)
    schedules = [] if test else schedule_notes(cfg)
    for note in filter(None, (*notes, *schedules, on_bits, busy_note(run.device))):
        LOGGER.info("note: %s", note)
    if not test:
        run.resume(cfg.RESUME)
    # Last: a run that may not resume here leaves the configuration of the one before.
    write_atomically(run.output_dir / f"config{run.suffix}.yml", lambda file: file.write(cfg.dump().encode()))
    return run


def _check_finite(tensors: Mapping[str, torch.Tensor], position: TrainingProgress) -> None:
    numbers = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    finite = torch.stack([tensor.isfinite().all() for tensor in numbers.values()]).tolist()
    broken = [name for name, fine in zip(numbers, finite, strict=True) if not fine]
    if broken:
        raise ReIDError(
            f"stage {position.stage} epoch {position.epoch}, iteration {position.steps}: the model has diverged, "
            f"{len(broken)} of {len(numbers)} tensors hold NaN or infinity, first {broken[0]}. The state is not saved. "
            "Lower the learning rate, set CLIP_GRAD, or set SOLVER.PRECISION to fp32, and start over with RESUME never "
            "or another OUTPUT_DIR."
        )


def _check_shape(state: object, folder: Path) -> None:
    """Refuse what is no state of a run even if its checksum fits."""
    kinds = {"settings": dict, "position": list, "history": list, "results": dict, "seconds": float, "data": str}
    kinds |= {"parts": dict, "best": dict}
    whole = isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in kinds.items())
    # A state of an earlier version has no alignment.
    kept = state.get("alignment", {}) if whole else {}
    whole = whole and isinstance(kept, dict) and all(isinstance(part, dict) for part in kept.values())
    whole = whole and all(isinstance(part, dict) for part in (*state["history"], *state["results"].values()))
    whole = whole and (
        not state["best"] or all(type(state["best"].get(key)) in (int, float) for key in ("epoch", "mAP"))
    )
    if not whole or [type(value) for value in state["position"]] != [int, int, int, bool]:
        raise ReIDError(f"{folder}: its newest state is not one of a run. Set RESUME to never to start over.")


def _started_from(state: object) -> object:
    """``RESUME`` of the run that saved ``state``, an untrusted file."""
    settings = state.get("settings") if isinstance(state, dict) else None
    return settings.get("RESUME") if isinstance(settings, dict) else None


def _check_source(source: str) -> None:
    """Refuse a misspelt word: where there are states, taking it for ``auto`` would resume the run in them."""
    words = ("auto", "never")
    if source in words or Path(source).is_dir():
        return
    near = difflib.get_close_matches(source.strip().lower(), words, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ReIDError(f"RESUME = {source!r}: expected auto, never or the OUTPUT_DIR of another run.{hint}")


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume with a configuration that computes something else."""
    held_out = now.get("DATASETS.HOLD_OUT")
    before = _in_todays_terms(before)
    differing = [
        key for key in differing_keys(before, now) if not free_to_change(key) or (held_out and key in VALIDATED_WITH)
    ]
    if not differing:
        return
    gone = [key for key in differing if key not in now]
    shown = [f"{key}: {before[key]!r}, a key of another version" for key in gone]
    shown += [f"{key}: {before.get(key, _default(key))!r} -> {now[key]!r}" for key in differing if key in now]
    advice = "Resume with the version that wrote it" if gone else "Take the old values to resume"
    longer = ""
    if any(key.endswith(".MAX_EPOCHS") for key in differing):
        longer = " To train on from its weights, choose another OUTPUT_DIR and name its checkpoint in "
        longer += "MODEL.PRETRAIN_PATH: the schedule begins again."
    raise ReIDError(
        f"{folder} holds the state of a run with another configuration ({'; '.join(shown)}). {advice}, set RESUME to "
        f"never to start over, or choose another OUTPUT_DIR.{longer}"
    )


def differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys whose value ``now`` is another one than ``before``, when a key may not have existed yet.

    A key that ``before`` lacks had the effect of today's default. A key that is gone differs.
    """
    old = _in_todays_terms(before)
    return [
        key for key in sorted({*old, *now}) if key not in now or (old[key] if key in old else _default(key)) != now[key]
    ]


def _in_todays_terms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` of an earlier version, which kept ``~`` as it was written and named some keys otherwise."""
    return {
        RENAMED.get(key, key): os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111
        for key, value in settings.items()
    }


def _default(key: str) -> Any:
    return flatten(get_defaults()).get(key)


def free_to_change(key: str) -> bool:
    """Whether a run may resume with another value of ``key``: no training step sees it."""
    return key.startswith(FREE_TO_CHANGE) or key.endswith(FREE_TO_CHANGE)


def _versions() -> tuple[str, str, str]:
    return torch.__version__, torchvision.__version__, platform.python_version()

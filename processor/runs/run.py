"""One run: what its parts share during training, saved and resumed."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn

from processor.runs.folder import back_up
from processor.runs.resume import bring_best, check_state, find_state
from processor.runs.settings import check_same_settings
from processor.runs.states import TrainingStates
from utils.compute.device import Precision
from utils.compute.distributed import from_main, is_main, on_main_process, world_size
from utils.console.logger import LOGGER
from utils.errors import ReIDError
from utils.files.checkpoint import model_file
from utils.files.paths import ShortPaths
from utils.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datasets.bases import Record
    from utils.images import Windows


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
        state, folder = from_main(partial(find_state, source, self.states, self.output_dir))
        if state is not None:
            check_state(state, folder)
            check_same_settings(state["settings"], self.settings, folder)
            if state["best"]:
                own = model_file(self.output_dir, self.settings["MODEL.NAME"], "best")
                on_main_process(partial(bring_best, folder.parent, own))
        if self.settings["SOLVER.STAGES"] and (state is None or folder != self.states.folder):
            on_main_process(self._back_up_numbers)
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

    def _back_up_numbers(self) -> None:
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

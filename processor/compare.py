"""Run several configurations with several seeds on one data set and compare their results.

Each run is a process of its own in its own folder, ``OUTPUT/<configuration>/seed<k>``: a failed run does not stop the
others. The same command resumes unfinished runs and reads finished ones. After each run OUTPUT holds the comparison so
far as comparison.md, comparison.csv and comparison.json.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from configs import load_config, read_tree
from model import check_method
from processor.reports.comparison import METHODS_OWN, as_csv, as_markdown, is_protocol, summarise
from processor.runs.folder import RunFolder, flatten, kind, read_run
from processor.runs.settings import differing_keys, free_to_change
from processor.runs.targets import target_configs
from utils.console.arguments import make_parser
from utils.console.command_line import run_script
from utils.console.folder_lock import FolderInUseError, hold_folder, release_folder
from utils.console.interrupt import EXIT_STATUS as STOPPED_STATUS
from utils.console.interrupt import InterruptedRunError, check_interrupt, interrupt_requested
from utils.console.logger import LOGGER, setup_console
from utils.console.terminal import show
from utils.errors import ReIDError
from utils.files.checkpoint import save_json, write_text
from utils.files.paths import ShortPaths
from utils.files.text_files import refuse_pipes

_CONFIGS = "--configs configs/hand/compare/clipreid.yml configs/hand/compare/baseline.yml"
EXAMPLES = (
    f"python -m processor.compare {_CONFIGS} --seeds 1 2 3 --output output/compare",
    f"python -m processor.compare {_CONFIGS} --output output/mine DATASETS.NAMES hand DATASETS.ROOT_DIR data/hands",
)
KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
SCRIPT = Path(__file__).resolve().parents[1] / "train_clipreid.py"


class Job(NamedTuple):
    """One run: the name and file of its configuration, its seed, its folder, every key's value."""

    name: str
    file: Path
    seed: int
    folder: Path
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def plan(files: Sequence[Path], seeds: Sequence[int], output: Path, overrides: Sequence[str]) -> list[Job]:
    """All runs, seed by seed, so that a comparison that is stopped early has runs of every configuration.

    Raises:
        ReIDError: a configuration is wrong, which is named, two have one name, or they differ in data or test protocol.
    """
    names = [file.stem for file in files]
    twice = [name for name in names if names.count(name) > 1]
    if twice or len(set(seeds)) < len(seeds):
        raise ReIDError(
            f"{f'two configurations named {twice[0]}' if twice else 'a seed named twice'}: each run has the folder "
            "OUTPUT/<configuration>/seed<k>. Name each once, under a file name of its own."
        )
    for key, option in (("SOLVER.SEED", "--seeds"), ("OUTPUT_DIR", "--output")):
        if key in overrides[::2]:
            raise ReIDError(f"command line: {key} is set for each run; use {option}.")
    jobs = []
    for seed in seeds:
        for name, file in zip(names, files, strict=True):
            folder = output / name / f"seed{seed}"
            own = [*overrides, "SOLVER.SEED", str(seed), "OUTPUT_DIR", str(folder)]
            cfg, _ = load_config(file, own)
            try:
                check_method(cfg)
                target_configs(cfg)
            except ReIDError as error:
                raise ReIDError(f"{file}: {error}") from None
            jobs.append(Job(name, file, seed, folder, flatten(cfg)))
    check_comparable(jobs[: len(files)])
    return jobs


def check_comparable(jobs: Sequence[Job]) -> None:
    """Refuse runs on different images or with different test protocols.

    Raises:
        ReIDError: naming the keys and both values.
    """
    first = jobs[0]
    for job in jobs[1:]:
        differing = [
            f"{key}: {first.settings[key]!r} and {job.settings[key]!r}"
            for key in first.settings
            if is_protocol(key) and first.settings[key] != job.settings[key]
        ]
        if differing:
            raise ReIDError(
                f"{first.name} and {job.name} cannot be compared, they differ in data or test protocol "
                f"({'; '.join(differing)}). Give these keys one value: behind the options, KEY VALUE holds for all."
            )


def finished(job: Job) -> RunFolder | None:
    """The finished run in the job's folder, if it has the same configuration."""
    config, metrics = job.folder / "config.yml", job.folder / "metrics.json"
    try:
        # A run writes its configuration first and its numbers last; later ones belong to a run that did not end.
        if metrics.stat().st_mtime_ns < config.stat().st_mtime_ns:
            return None
        run, before = read_run(job.folder), flatten(read_tree(config))
    except (OSError, ReIDError):
        return None
    same = not any(_matters(key) for key in differing_keys(before, job.settings))
    # A test there may have written the numbers after the configuration: the row says itself how it was measured.
    measured = {f"TEST.{key}": value for key, value in run.result.get("protocol", {}).items()}
    same = same and all(job.settings.get(key) == value for key, value in measured.items() if key not in METHODS_OWN)
    return run if same and kind(run.name) != "test" else None


def _matters(key: str) -> bool:
    """Whether a finished run with another value has to be tested again, or may not resume at all."""
    return not free_to_change(key) or (key.startswith("TEST.") and key not in METHODS_OWN)


def launch(job: Job, overrides: Sequence[str]) -> str:
    """Train and test in a process of its own; why it failed, or nothing.

    Raises:
        InterruptedRunError: stopped by a signal; the run has saved its state.
    """
    console = job.folder.with_suffix(".log")
    job.folder.mkdir(parents=True, exist_ok=True)
    _wait_for(job.folder)
    own = [*overrides, "SOLVER.SEED", str(job.seed), "OUTPUT_DIR", str(job.folder)]
    refuse_pipes(console, "written", "Remove it.")
    with console.open("wb") as output:
        command = [sys.executable, str(SCRIPT), "--config_file", str(job.file), *own]
        # A session of its own: Ctrl-C reaches it through us alone, once, since a second signal would act at once.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        forwarded = False
        while process.poll() is None:
            time.sleep(0.2)
            if interrupt_requested() and not forwarded:
                process.send_signal(signal.SIGTERM)
                forwarded = True
    if forwarded or process.returncode == STOPPED_STATUS:
        raise InterruptedRunError(str(job))
    if process.returncode == 0:
        console.unlink()  # the run's log has the same message, without the paths of this machine
        return ""
    lines = console.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"status {process.returncode}: {lines[-1][:500] if lines else 'no output'} ({console})"


def _wait_for(folder: Path) -> None:
    """Wait for a run of a killed comparison, which continues alone."""
    said = False
    while True:
        try:
            hold_folder(folder)
            release_folder()
            return
        except FolderInUseError as error:
            if not said:
                LOGGER.info("waiting: %s", error)
            said = True
        check_interrupt(f"waiting for the run in {folder}")
        time.sleep(0.5)


def compare(
    files: Sequence[Path],
    seeds: Sequence[int],
    output: Path,
    overrides: Sequence[str] = (),
    run: Callable[[Job, Sequence[str]], str] = launch,
) -> None:
    """Do all runs, write the comparison and print it.

    Raises:
        ReIDError: before any run, as :func:`plan`; or behind all of them, if one has failed.
    """
    setup_console()
    jobs = plan(files, seeds, output, overrides)
    results: dict[str, dict[int, RunFolder]] = {file.stem: {} for file in files}
    failed: list[str] = []
    for number, job in enumerate(jobs, 1):
        check_interrupt(str(job))
        found, reason = finished(job), ""
        LOGGER.info("run %d of %d: %s%s", number, len(jobs), job, " is finished" if found else "")
        if found is None:
            reason = run(job, overrides)
            found = finished(job)
        if reason or found is None:
            failed.append(f"{job}: {reason or 'it ended without results'}")
            LOGGER.error("%s", failed[-1])
        else:
            results[job.name][job.seed] = found
            LOGGER.info("%s: mAP %.1f, Rank-1 %.1f", job, found.result["mAP"], found.result["Rank-1"])
        text = _write(output, jobs[0], results, failed)
    show(text.rstrip())
    if failed:
        raise ReIDError(
            f"{len(failed)} of {len(jobs)} runs failed; the others are compared in {output}. First {failed[0]}"
        )


def _write(output: Path, job: Job, results: Mapping[str, Mapping[int, RunFolder]], failed: Sequence[str]) -> str:
    """Write the comparison so far in three forms; the one for people."""
    rows = summarise(results)
    protocol = {key: value for key, value in job.settings.items() if is_protocol(key)}
    named = [str(output.resolve()), *(value for value in job.settings.values() if isinstance(value, str))]
    shorten = ShortPaths(named)
    text = shorten(as_markdown(rows, failed, f"Comparison on {job.settings['DATASETS.NAMES']}"))
    runs = [
        {"name": name, "seed": seed, "folder": str(run.folder), **run.result, "seconds": run.metrics["seconds"]}
        for name, seeds in results.items()
        for seed, run in seeds.items()
    ]
    content = {"rows": rows, "runs": runs, "failed": list(failed), "protocol": protocol}
    save_json(shorten.everywhere(content), output / "comparison.json")
    write_text(output / "comparison.csv", as_csv(rows))
    write_text(output / "comparison.md", text)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 2 after a user error or a failed run, 3 after a signal."""
    parser = make_parser("python -m processor.compare", __doc__, EXAMPLES)
    add = parser.add_argument
    add(
        "--configs",
        metavar="FILE",
        type=Path,
        nargs="+",
        required=True,
        help="YAML files; the others are compared with the first",
    )
    add("--seeds", metavar="N", type=int, nargs="+", default=[1], help="values of SOLVER.SEED (default: 1)")
    add(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("output/comparison"),
        help="folder of all runs and of the comparison (default: %(default)s)",
    )
    add(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="last: configuration keys that override every file, such as DATASETS.ROOT_DIR data",
    )
    options, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(options)
    return run_script(partial(compare, arguments.configs, arguments.seeds, arguments.output, overrides))


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options, and what follows them from the first key of the configuration on: ``--seeds 1 2 MODEL.NAME RN50``."""
    for place, word in enumerate(words):
        if KEY.fullmatch(word) and not (place and words[place - 1].startswith("--")):
            return list(words[:place]), list(words[place:])
    return list(words), []


if __name__ == "__main__":
    sys.exit(main())

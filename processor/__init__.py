"""Training stages, evaluation and reports; they receive built objects and import only losses and helpers."""

import utils.console.early_signals  # noqa: F401 -- first: Ctrl-C while the packages below are loaded
from processor.embedder import Embedder, load_embedder
from processor.processor_clipreid_stage0 import SentenceData, do_train_stage0
from processor.processor_clipreid_stage1 import do_train_stage1
from processor.processor_clipreid_stage2 import do_inference, do_train_stage2, do_validation, load_best
from processor.reports.prompt_words import note_prompt_words
from processor.reports.tables import finish_run, note_result, note_text_results
from processor.runs.run import Run
from processor.runs.start import start_run
from processor.targets import evaluate_targets, make_targets
from processor.testing.biometrics import check_performance

__all__ = [
    "Embedder",
    "Run",
    "SentenceData",
    "check_performance",
    "do_inference",
    "do_train_stage0",
    "do_train_stage1",
    "do_train_stage2",
    "do_validation",
    "evaluate_targets",
    "finish_run",
    "load_best",
    "load_embedder",
    "make_targets",
    "note_prompt_words",
    "note_result",
    "note_text_results",
    "start_run",
]

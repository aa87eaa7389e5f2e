"""Backbones and the methods of re-identification on them."""

import utils.console.early_signals  # noqa: F401 -- first: Ctrl-C while the packages below are loaded
from model.base import DataFacts, Method
from model.clip.alignment import CaptionReader
from model.execution import set_execution
from model.make_model_clipreid import check_weights, load_prompts, make_model, make_test_model, use_start
from model.methods.registry import METHODS, check_method

__all__ = [
    "METHODS",
    "CaptionReader",
    "DataFacts",
    "Method",
    "check_method",
    "check_weights",
    "load_prompts",
    "make_model",
    "make_test_model",
    "set_execution",
    "use_start",
]

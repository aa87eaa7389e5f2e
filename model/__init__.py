"""Networks: CLIP, the prompt learner, the re-identification models of all methods."""

import utils.early_signals  # noqa: F401 -- first: Ctrl-C while the packages below are loaded
from model.clip.prompts import PromptLearner
from model.execution import set_execution
from model.make_model_clipreid import check_weights, load_prompts, make_model, make_test_model
from model.methods.baseline import ImageReID
from model.methods.clipreid import CLIPReID
from model.methods.registry import METHODS, check_method

__all__ = [
    "METHODS",
    "CLIPReID",
    "ImageReID",
    "PromptLearner",
    "check_method",
    "check_weights",
    "load_prompts",
    "make_model",
    "make_test_model",
    "set_execution",
]

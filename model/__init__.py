"""Networks: CLIP, the prompt learner, the re-identification models."""

from model.baseline import ImageReID
from model.execution import set_execution
from model.make_model_clipreid import CLIPReID, PromptLearner, check_weights, load_prompts, make_model, make_test_model

__all__ = [
    "CLIPReID",
    "ImageReID",
    "PromptLearner",
    "check_weights",
    "load_prompts",
    "make_model",
    "make_test_model",
    "set_execution",
]

"""The text path on whole contexts, for comparison in tests and benchmarks."""

from torch import Tensor

from model.methods.clipreid import CLIPReID


def encode_whole(model: CLIPReID, labels: Tensor) -> Tensor:
    """Identities [B] -> features [B, E] from all 77 tokens of each, repeated identities included."""
    return model.text_encoder(model.prompt_learner(labels, whole=True), model.prompt_learner.end)

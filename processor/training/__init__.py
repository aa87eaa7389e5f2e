"""A stage of training: the epoch loop, a step, passes over the training set, prompts aligned with images."""

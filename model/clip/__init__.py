"""CLIP (Radford et al., arXiv 2103.00020): network, tokenizer and weights."""

"""HOReID (Wang et al., arXiv 2003.08177): a graph of features at key points."""

from model.methods.horeid.method import HOReID

__all__ = ["HOReID"]

"""k-reciprocal re-ranking."""

from utils.reranking.k_reciprocal import k_reciprocal

__all__ = ["k_reciprocal"]

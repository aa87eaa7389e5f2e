"""The subject bootstrap of every figure: error rates, rankings, open-set identification."""

"""ISP (Zhu et al., arXiv 2007.13467): parts that the network finds by clustering the pixels of each identity."""

from model.methods.isp.method import ISP

__all__ = ["ISP"]

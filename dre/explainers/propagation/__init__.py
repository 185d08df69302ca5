"""Propagation explainers: LRP and DeepLIFT, which replace gradients while the network runs."""

from dre import renamed

__getattr__ = renamed.getter(__name__)

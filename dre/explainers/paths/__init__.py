"""Path explainers: paths from a baseline to the image, and rules that sum the gradient along them."""

from dre import renamed

__getattr__ = renamed.getter(__name__)

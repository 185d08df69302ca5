"""Saliency maps that are kept on disk for later runs."""

from dre.caching.cache import SaliencyCache

__all__ = ["SaliencyCache"]

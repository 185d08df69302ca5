"""Maps that were made before: kept in shards, found by all that decides them."""

from dre.caching.cache import SaliencyCache

__all__ = ["SaliencyCache"]

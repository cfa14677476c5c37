"""Answers that need not be made again: kept ones, and those that are being made right now."""

from deployment.gateway.cache.keys import is_deterministic
from deployment.gateway.cache.semantic import SemanticIndex
from deployment.gateway.cache.service import MISS, Answers, Opened
from deployment.gateway.cache.store import MemoryStore, RedisStore, Store

__all__ = ["MISS", "Answers", "MemoryStore", "Opened", "RedisStore", "SemanticIndex", "Store", "is_deterministic"]

"""Which node has seen the beginning of a conversation: chained hashes of blocks, remembered per node."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

BLOCK_CHARS = 64
MAX_BLOCKS = 512
"""Blocks of a prompt that count: 32,768 characters, about what a slot's cache holds."""


def text_of(body: Mapping[str, Any]) -> str:
    """What the model reads, in order: system and prompt, or the messages with their roles."""
    messages = body.get("messages")
    if isinstance(messages, list):
        return "".join([f"{m.get('role')}\0{m.get('content')}\0" for m in messages if isinstance(m, dict)])
    return f"{body.get('system') or ''}\0{body.get('prompt') or ''}"


def block_hashes(release: str, text: str) -> list[int]:
    """One hash per whole block; each also covers all blocks before it, and the release."""
    chain = hash(release)
    hashes = []
    for start in range(0, min(len(text), MAX_BLOCKS * BLOCK_CHARS) - BLOCK_CHARS + 1, BLOCK_CHARS):
        chain = hash((chain, text[start : start + BLOCK_CHARS]))
        hashes.append(chain)
    return hashes


class PrefixMemory:
    """The blocks that a node has seen last, at most `size`. A guess at its KV cache, never a promise."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def matched(self, hashes: Sequence[int]) -> int:
        """How many leading blocks are known: chains make that a binary search."""
        if not hashes or hashes[0] not in self._seen:
            return 0
        low, high = 1, len(hashes)
        while low < high:
            middle = (low + high + 1) // 2
            if hashes[middle - 1] in self._seen:
                low = middle
            else:
                high = middle - 1
        return low

    def learn(self, hashes: Sequence[int]) -> None:
        """The node reads these blocks now. The first are touched last, so that chains lose their tails first."""
        seen = self._seen
        for block in reversed(hashes):
            seen[block] = None
            seen.move_to_end(block)
        while len(seen) > self._size:
            seen.popitem(last=False)

    def forget(self) -> None:
        """The node restarted: its cache is empty."""
        self._seen.clear()

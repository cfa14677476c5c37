"""The same node for the same session, as long as it can take it."""

import hashlib
import math
from collections.abc import Sequence

from deployment.engines.placement import Ask, Candidate


class Session:
    """Rendezvous hashing (Thaler, Ravishankar 1998) with weights: all gateways agree without talking, and a node
    that goes moves only its own sessions. Without a session the beginning of the prompt is the key, and without
    that the least loaded node is taken.
    """

    patient = False

    def rank(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        """The lowest is the session's node, the next its substitute."""
        key = ask.session or (str(ask.hashes[0]) if ask.hashes else None)
        if key is None:
            return [c.in_flight / c.slots for c in candidates]
        return [-math.log(_uniform(key, c.name)) / c.weight for c in candidates]


def _uniform(key: str, name: str) -> float:
    """A number in (0, 1) that depends on both alone."""
    digest = hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 1) / (2**64 + 1)

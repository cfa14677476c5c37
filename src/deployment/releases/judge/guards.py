"""Plain guards, without statistics: what nobody waits for evidence of."""

from dataclasses import dataclass
from typing import Any

from deployment.releases.judge.model import GUARDS, GuardFacts, JudgeLimits, Result, Verdict


@dataclass(slots=True)
class Guards:
    """What they have seen."""

    looks: int = 0
    full_since: float | None = None
    queue_in_a_row: int = 0
    broken: str | None = None
    """Why the candidate has to go, once one guard said so."""

    def look(self, facts: GuardFacts, limits: JudgeLimits) -> None:
        """Take in how things are now."""
        self.looks += 1
        full = facts.memory_share is not None and facts.memory_share > limits.memory_share
        self.full_since = (self.full_since if self.full_since is not None else facts.at) if full else None
        late = facts.queue_wait_s is not None and facts.queue_wait_s > limits.queue_wait_s
        self.queue_in_a_row = self.queue_in_a_row + 1 if late else 0
        self.broken = self.broken or self._reason(facts, limits)

    def _reason(self, facts: GuardFacts, limits: JudgeLimits) -> str | None:
        if facts.out_of_memory:
            return "A node ran out of memory."
        if facts.failed_health_checks >= limits.health_failures:
            return f"A node failed {facts.failed_health_checks} health checks in a row."
        if self.full_since is not None and facts.at - self.full_since >= limits.memory_seconds:
            return (
                f"A node's memory is {facts.memory_share or 0:.0%} full, above {limits.memory_share:.0%} for "
                f"{facts.at - self.full_since:.0f} s."
            )
        if self.queue_in_a_row >= limits.queue_samples:
            return f"Requests wait {facts.queue_wait_s or 0:.1f} s for a slot; {limits.queue_wait_s:g} s is the limit."
        return None

    def verdict(self) -> Verdict:
        """PASS once they have looked and found nothing."""
        if self.broken is not None:
            return Verdict(GUARDS, Result.FAIL, None, None, self.looks, self.broken)
        if not self.looks:
            return Verdict(GUARDS, Result.INCONCLUSIVE, None, None, 0, "Nobody has looked at nodes and queue yet.")
        return Verdict(GUARDS, Result.PASS, None, None, self.looks, "Nodes, memory and queue are well.")

    def state(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "looks": self.looks,
            "full_since": self.full_since,
            "queue_in_a_row": self.queue_in_a_row,
            "broken": self.broken,
        }

"""What an attempt's end says about its node: blame is pure, `Outcomes` writes it down."""

from collections.abc import Callable
from enum import Enum

import structlog

from deployment.clock import Clock
from deployment.engines import breaker
from deployment.engines.metrics import PoolMetrics
from deployment.engines.node import Node
from deployment.errors import EngineError, EngineRefused, EngineUnavailable, ModelMissing, RamseyError

_log = structlog.get_logger("engines")


class Blame(Enum):
    """Whose fault it was."""

    NOBODY = "nobody"
    """The caller's: it refused to wait, or asked what no node would do."""
    NODE = "node"
    RELEASE = "release"
    """The node is fine, but cannot serve this release."""


def blame(error: BaseException) -> Blame:
    """Cancelled requests and refusals (401 and 429 too) never count against the node."""
    if isinstance(error, ModelMissing):
        return Blame.RELEASE
    if isinstance(error, EngineError) and not isinstance(error, EngineRefused):
        return Blame.NODE
    return Blame.NOBODY


class Outcomes:
    """Moves breakers, counts, and tells who must look again."""

    def __init__(self, rules: breaker.Rules, clock: Clock, metrics: PoolMetrics) -> None:
        self._rules = rules
        self._clock = clock
        self._metrics = metrics
        self.on_change: Callable[[Node], None] = lambda _node: None
        """Called when placement may see the node with other eyes."""
        self.on_failure: Callable[[Node], None] = lambda _node: None
        """Called when a node failed: time to look at it."""

    def succeeded(self, node: Node) -> None:
        """A whole answer came."""
        self._move(node, breaker.succeeded(node.breaker))

    def failed(self, node: Node, release: str | None, error: RamseyError) -> None:
        """An attempt or a check failed by `error`."""
        match blame(error):
            case Blame.RELEASE if release is not None:
                node.on(release).missing = True
                self.on_failure(node)
                self.on_change(node)
            case Blame.NODE:
                node.trouble = error.message
                self.on_failure(node)
                self._move(node, breaker.failed(node.breaker, self._clock.monotonic(), self._rules))
            case _:
                pass

    def gone(self, node: Node, error: RamseyError) -> None:
        """A check failed. A node that cannot be reached is out at once, and its memory is lost.

        One that never was there yet is just not up yet: no back-off delays its first answer.
        """
        gone = isinstance(error, EngineUnavailable)
        if gone:
            node.restarted()
        if gone and node.checked.version is None and node.breaker.phase is breaker.Phase.CLOSED:
            return
        if gone or node.breaker.phase is breaker.Phase.HALF_OPEN:
            self._move(node, breaker.tripped(node.breaker, self._clock.monotonic(), self._rules))
        else:
            self.failed(node, None, error)

    def probing(self, node: Node, *, at_once: bool = False) -> bool:
        """Take the single probe of an open breaker; False when it may not go yet, unless `at_once`."""
        now = self._clock.monotonic()
        if at_once:
            now = max(now, node.breaker.retry_at)
        if not breaker.may_probe(node.breaker, now):
            return False
        self._move(node, breaker.probing(node.breaker, now))
        return True

    def probe_cancelled(self, node: Node) -> None:
        """The probe ended without a verdict."""
        self._move(node, breaker.probe_cancelled(node.breaker))

    def _move(self, node: Node, state: breaker.Breaker) -> None:
        before, node.breaker = node.breaker, state
        if state.phase is not before.phase:
            self._metrics.breaker(node.name, state.phase.value)
            _log.info("breaker", node=node.name, phase=state.phase.value, was=before.phase.value)
            self.on_change(node)

"""What a release must pass before it gets traffic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from deployment.engines import NodeView
from deployment.errors import RamseyError
from deployment.releases.catalogue.model import CatalogueEntry

_log = structlog.get_logger("gates")


@dataclass(frozen=True, slots=True)
class GateContext:
    """What is judged."""

    entry: CatalogueEntry
    nodes: Sequence[NodeView]
    """Those that are to serve it."""
    current: str | None = None
    """The release that has the traffic now."""


class GateResult(NamedTuple):
    """What a gate found; `reason` has its numbers."""

    name: str
    passed: bool
    reason: str


class Gate(Protocol):
    """One condition. Adding one: a class here, and its line in `gates_of`."""

    name: str

    async def check(self, context: GateContext) -> GateResult:
        """Whether the release passes. What it raises counts as not passed."""
        ...


async def run_gates(gates: Sequence[Gate], context: GateContext) -> tuple[GateResult, ...]:
    """One after another, up to the first that is not passed: what comes after would speak of a broken release."""
    results: list[GateResult] = []
    for gate in gates:
        try:
            result = await gate.check(context)
        except RamseyError as error:
            result = GateResult(gate.name, False, f"{error.message} {error.hint or ''}".strip())
        _log.info("gate", release=context.entry.name, gate=gate.name, passed=result.passed, reason=result.reason)
        results.append(result)
        if not result.passed:
            break
    return tuple(results)

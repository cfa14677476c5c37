"""Refused access in the record: written behind, and bounded, whatever a flood of refusals does.

Refusals of one caller from one address for one reason become one entry for each time that they are written.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from deployment.access.audit import Act
from deployment.access.model import Principal
from deployment.access.store import AccessStore
from deployment.background import written_behind
from deployment.clock import Clock
from deployment.errors import RamseyError

EVERY_S = 15.0
MOST = 25
"""Entries in that time; what more callers are refused is counted in one."""
_UNKNOWN = Principal(
    id="unknown", name="unknown", tenant="", roles=frozenset(), scopes=frozenset(), key_hash=None, anonymous=True
)
_Key = tuple[str, str, str]
_OTHERS: _Key = ("", "", "")


@dataclass(slots=True)
class _Refused:
    """What becomes one entry. The first refusal is told, the others are counted."""

    act: Act
    count: int
    last: datetime


class Refusals:
    """Notes refusals from memory alone, and writes them down in the background."""

    def __init__(self, store: AccessStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._noted: dict[_Key, _Refused] = {}

    def note(self, error: RamseyError, scope: Mapping[str, Any], request_id: str) -> None:
        """A request was refused with this error. Never waits and never fails."""
        client = scope.get("client")
        source = str(client[0])[:64] if client else ""
        caller: Principal = scope.get("state", {}).get("caller", _UNKNOWN)
        now = self._clock.now()
        key = (source, caller.id, error.code)
        noted = self._noted.get(key)
        if noted is None and len(self._noted) >= MOST:
            key = _OTHERS
            noted = self._noted.get(key)
        if noted is not None:
            noted.count += 1
            noted.last = now
            return
        actor = replace(caller, name=caller.name[:64], source=source, request_id=request_id[:128])
        detail = {"reason": error.code, "message": _plain(error.message), "method": scope["method"][:16]}
        if key is _OTHERS:
            actor, detail = replace(_UNKNOWN, name="others"), {"reason": f"more than {MOST} callers were refused"}
        self._noted[key] = _Refused(Act(now, actor, "access.refused", _plain(scope["path"]), detail), 1, now)

    async def flush(self) -> None:
        """Write down what was noted. Raises DatabaseUnavailable; it is written later then."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        acts = [
            replace(one.act, detail={**one.act.detail, "count": one.count, "until": one.last.isoformat()})
            for one in noted.values()
        ]
        try:
            await self._store.record(acts)
        except BaseException:
            self._again(noted)
            raise

    def running(self) -> AbstractAsyncContextManager[None]:
        """Write until the end, and once more then."""
        return written_behind(self.flush, EVERY_S, "refusals")

    def _again(self, unwritten: dict[_Key, _Refused]) -> None:
        """Put back, with what came in the meantime, within the same bound."""
        later, self._noted = self._noted, unwritten
        for key, one in later.items():
            at = key if key in unwritten or len(unwritten) < MOST else _OTHERS
            if at in unwritten:
                unwritten[at].count += one.count
                unwritten[at].last = one.last
            else:
                unwritten[at] = one


def _plain(text: str) -> str:
    """A caller's text, fit for a table of ours."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])

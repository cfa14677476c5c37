"""Use cases: what a tenant keeps, and one person's right to see it or have it erased."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.access import Act, Permission, Principal, record_acts, require_tenant
from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import ConfigurationError, Conflict, DatabaseUnavailable, InvalidRequest, NotFound
from deployment.privacy.model import Conversation, Erased, Wish
from deployment.privacy.sealing import Sealer
from deployment.privacy.store import PrivacyStore

_PAGE = 200


class Votes(Protocol):
    """Votes on answers, which may hold comments."""

    async def erase(self, connection: AsyncConnection, tenant: str, request_ids: list[str], subject: str) -> int:
        """Delete those on these answers, on other answers to this person, and those it gave; returns how many."""
        ...


class PrivacyService:
    """What administrators and tenants do. A tenant's own people may only do it in their tenant."""

    def __init__(
        self,
        database: Database,
        store: PrivacyStore,
        sealer: Sealer,
        clock: Clock,
        votes: Votes,
        written: Callable[[], Awaitable[None]],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        """`written` waits until this process has written what it noted; `refresh` takes in wishes."""
        self._database, self._store, self._sealer, self._clock = database, store, sealer, clock
        self._votes, self._written, self._refresh = votes, written, refresh

    async def wishes(self, actor: Principal) -> list[Wish]:
        """What tenants keep, as far as the actor may see."""
        async with self._database.read() as connection:
            found = await self._store.wishes(connection)
        return [wish for wish in found if _may(actor, wish.tenant)]

    async def set(self, actor: Principal, wish: Wish) -> Wish:
        """Begin or end to keep a tenant's conversations. Those that were kept stay until they expire or are erased.

        Raises NotFound for another's tenant or one that is not there, Conflict while no key could seal them.
        """
        _check(actor, wish.tenant)
        if wish.keep:
            if self._sealer.key_id is None:
                raise Conflict(
                    "Nothing can be kept: there is no key to seal it.",
                    hint="Set privacy.keys (docs/privacy.md), then start again.",
                )
            self._sealer.check()
        now = self._clock.now()
        new = replace(wish, set_at=now, set_by=actor.id)
        async with self._database.write() as connection:
            await require_tenant(connection, wish.tenant)
            before = [each for each in await self._store.wishes(connection) if each.tenant == wish.tenant]
            await self._store.put_wish(connection, new)
            detail = {"before": _told(before[0]) if before else None, "after": _told(new)}
            await record_acts(connection, [Act(now, actor, "privacy.set", wish.tenant, detail)])
        with suppress(DatabaseUnavailable):  # it is done, and heard of later
            await self._refresh()
        return new

    async def export(
        self, actor: Principal, tenant: str, subject: str, after: str | None = None
    ) -> tuple[list[Conversation], str | None]:
        """What is kept of one person, the oldest first, and where the next page begins; None at the end.

        It is recorded that it was asked.
        """
        _check(actor, tenant)
        tags, begin = self._tags(tenant, subject), _cursor(after)
        if begin is None:
            await self._written()
            act = Act(self._clock.now(), actor, "privacy.export", tags[0][:16], {"tenant": tenant})
            async with self._database.write() as connection:
                await require_tenant(connection, tenant)
                await record_acts(connection, [act])
        async with self._database.read() as connection:
            page = await self._store.of_subject(connection, tenant, tags, begin, _PAGE)
        more = f"{page[-1].at.isoformat()}/{page[-1].id}" if len(page) == _PAGE else None
        return [self._sealer.open(row) for row in page], more

    async def erase(self, actor: Principal, tenant: str, subject: str) -> Erased:
        """Delete every conversation of a person, and the votes on their answers; all of it or nothing. It is recorded.

        What another gateway has answered and not written yet is never written. The record names the person by a
        keyed hash only.
        """
        _check(actor, tenant)
        tags = self._tags(tenant, subject)
        await self._written()
        async with self._database.write() as connection:
            await self._store.begin_to_erase(connection)
            await require_tenant(connection, tenant)
            now = await self._store.now(connection, self._clock)
            await self._store.note_erased(connection, tenant, tags, now)
            requests = await self._store.erase(connection, tenant, tags)
            votes = await self._votes.erase(connection, tenant, requests, subject)
            erased = Erased(len(requests), votes)
            detail = {"tenant": tenant} | asdict(erased)
            await record_acts(connection, [Act(self._clock.now(), actor, "privacy.erase", tags[0][:16], detail)])
        return erased

    async def was_erased(self, connection: AsyncConnection, tenant: str, subject: str, said_at: datetime) -> bool:
        """Whether what was said of a person then must not be written any more. Called first in the transaction that
        would write it: it waits for erasures under way."""
        await self._store.begin_to_write(connection)
        try:
            tags = self._sealer.tags(tenant, subject[:256])
        except ConfigurationError:  # with a key that is none nobody is erased
            return False
        erased = (await self._store.erased(connection, tags)) if tags else {}
        return any(said_at <= at for at in erased.values())

    async def rotate(self, actor: Principal) -> int:
        """Seal everything with the first key that another sealed; returns how many. Then the old keys may go."""
        actor.require(Permission.TENANTS_ALL)
        key_id = self._sealer.key_id
        if key_id is None:
            raise Conflict("There is no key to seal with.", hint="Set privacy.keys (docs/privacy.md).")
        done = 0
        while True:
            async with self._database.write() as connection:
                page = await self._store.of_other_keys(connection, key_id, _PAGE)
                for row in page:
                    await self._store.replace(connection, self._sealer.seal(self._sealer.open(row)))
                done += len(page)
                if len(page) < _PAGE:
                    act = Act(self._clock.now(), actor, "privacy.rotate", key_id, {"conversations": done})
                    await record_acts(connection, [act])
                    return done

    def _tags(self, tenant: str, subject: str) -> list[str]:
        if not subject or len(subject) > 256:
            raise InvalidRequest("A subject has 1 to 256 characters.")
        tags = self._sealer.tags(tenant, subject)
        if not tags:
            raise Conflict("No key is here to find or open conversations.", hint="Set privacy.keys (docs/privacy.md).")
        return tags


def _may(actor: Principal, tenant: str) -> bool:
    return actor.tenant == tenant or Permission.TENANTS_ALL in actor.permissions


def _check(actor: Principal, tenant: str) -> None:
    if not _may(actor, tenant):
        raise NotFound(f"There is no tenant {tenant[:64]}.", hint="`ramsey tenants list` shows those you may see.")


def _told(wish: Wish) -> dict[str, Any]:
    return {"keep": wish.keep, "days": wish.days, "redact": wish.redact}


def _cursor(text: str | None) -> tuple[datetime, str] | None:
    if text is None:
        return None
    at, _, last = text.partition("/")
    try:
        return datetime.fromisoformat(at), last
    except ValueError:
        raise InvalidRequest("after: give back what `next` said.") from None

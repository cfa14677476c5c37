"""The releases in the database. The only SQL for their table; nothing in it is ever overwritten but what is learned."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from deployment.access import Act, record_acts
from deployment.database import Database, Moment, metadata
from deployment.releases.catalogue.model import CatalogueEntry

_releases = sa.Table(
    "releases",
    metadata,
    sa.Column("model", sa.String(80), primary_key=True),
    sa.Column("tag", sa.String(80), primary_key=True),
    sa.Column("recipe_digest", sa.String(64), nullable=False),
    sa.Column("weights_sha256", sa.String(64), nullable=False),
    sa.Column("weights_bytes", sa.BigInteger, nullable=False),
    sa.Column("adapters", sa.Text, nullable=False),
    sa.Column("modelfile_text", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64)),
    sa.Column("evaluation", sa.Text),
    sa.Column("pruned_at", Moment),
    sa.Column("deleted_at", Moment),
)


class CatalogueStore:
    """Keeps entries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def upgrade(self) -> None:
        """Bring the tables to this version, where nobody did. Raises DatabaseUnavailable."""
        await self._database.upgrade()

    async def add(self, act: Act, entry: CatalogueEntry) -> CatalogueEntry | None:
        """Keep a new entry; the one that is there already, and nothing kept, where there is one of that name."""
        async with self._database.write() as connection:
            found = (await connection.execute(_one(entry.name))).mappings().one_or_none()
            if found is None:
                try:
                    async with connection.begin_nested():
                        await connection.execute(_releases.insert().values(_row(entry)))
                except sa.exc.IntegrityError:  # another gateway was faster
                    found = (await connection.execute(_one(entry.name))).mappings().one()
                else:
                    await record_acts(connection, [act])
            return _entry(found) if found is not None else None

    async def get(self, name: str) -> CatalogueEntry | None:
        """One entry, by its full name."""
        async with self._database.read() as connection:
            row = (await connection.execute(_one(name))).mappings().one_or_none()
            return _entry(row) if row is not None else None

    async def list(self, model: str | None = None) -> list[CatalogueEntry]:
        """All entries, or one model's; the newest first."""
        query = sa.select(_releases).order_by(_releases.c.created_at.desc(), _releases.c.model, _releases.c.tag.desc())
        if model is not None:
            query = query.where(_releases.c.model == model)
        async with self._database.read() as connection:
            return [_entry(row) for row in (await connection.execute(query)).mappings()]

    async def learn_digest(self, name: str, digest: str, instead_of: str | None) -> str | None:
        """Note the digest that nodes have, unless somebody noted another since; the one that is noted now."""
        before = _releases.c.digest.is_(None) if instead_of is None else _releases.c.digest == instead_of
        async with self._database.write() as connection:
            await connection.execute(sa.update(_releases).where(_is(name), before).values(digest=digest))
            return (await connection.execute(sa.select(_releases.c.digest).where(_is(name)))).scalar_one_or_none()

    async def note_evaluation(self, name: str, evaluation: Mapping[str, Any], act: Act | None = None) -> None:
        """Keep the newest scores."""
        await self._update(name, act, evaluation=orjson.dumps(evaluation).decode())

    async def record(self, act: Act) -> None:
        """An entry in the record, of what changes nothing here."""
        async with self._database.write() as connection:
            await record_acts(connection, [act])

    async def note_pruned(self, name: str, at: datetime | None, act: Act | None = None) -> None:
        """It is off the nodes, or (None) may be on them."""
        await self._update(name, act, pruned_at=at)

    async def note_deleted(self, name: str, at: datetime | None, act: Act) -> None:
        """Its weights are given up, or (None) are here again."""
        await self._update(name, act, deleted_at=at, pruned_at=at)

    async def _update(self, name: str, act: Act | None, **values: Any) -> None:
        async with self._database.write() as connection:
            await connection.execute(sa.update(_releases).where(_is(name)).values(**values))
            if act is not None:
                await record_acts(connection, [act])


def _is(name: str) -> sa.ColumnElement[bool]:
    model, _, tag = name.rpartition(":")
    return sa.and_(_releases.c.model == model, _releases.c.tag == tag)


def _one(name: str) -> sa.Select[Any]:
    return sa.select(_releases).where(_is(name))


def _row(entry: CatalogueEntry) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}
    evaluation = orjson.dumps(entry.evaluation).decode() if entry.evaluation is not None else None
    return values | {"adapters": orjson.dumps(entry.adapters).decode(), "evaluation": evaluation}


def _entry(row: Mapping[Any, Any]) -> CatalogueEntry:
    evaluation = orjson.loads(row["evaluation"]) if row["evaluation"] is not None else None
    return CatalogueEntry(**{**row, "adapters": tuple(orjson.loads(row["adapters"])), "evaluation": evaluation})

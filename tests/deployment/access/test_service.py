import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.held_clock import HeldClock

from deployment.access import BUILT_IN_ROLES, LOCAL_OPERATOR, AccessService, CreatedKey, KeyWish, Permission, Principal
from deployment.access.audit import AuditStore
from deployment.access.room import Access
from deployment.access.store import AccessStore
from deployment.database import Database
from deployment.errors import (
    Conflict,
    DatabaseUnavailable,
    Forbidden,
    InvalidRequest,
    NotFound,
    RamseyError,
    Unauthenticated,
)
from deployment.settings import Profile, load

KEY_ADMIN = frozenset({"keys:read", "keys:write", "tenants:read", "inference", "embeddings", "jobs", "models:read"})


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
async def access(database_url: str, clock: HeldClock) -> AsyncIterator[Access]:
    database = Database(database_url)
    access = Access(load(profile=Profile.DEVELOPMENT), database, clock)
    async with access.running():
        yield access
    await database.close()


def call(access: Access, created: CreatedKey, client: str = "203.0.113.9") -> Principal:
    headers = [(b"host", b"llm.example"), (b"x-api-key", created.new.key.encode())]
    return access.authenticator.authenticate({"type": "http", "client": (client, 1), "headers": headers})


async def make(access: Access, **wish: object) -> CreatedKey:
    return await access.service.create_key(LOCAL_OPERATOR, KeyWish(**{"name": "shop", **wish}))  # type: ignore[arg-type]


async def tenant_admin(access: Access) -> Principal:
    """Somebody who may make keys in the tenant acme, and nothing elsewhere."""
    await access.service.create_tenant(LOCAL_OPERATOR, "acme", "Acme Ltd")
    await access.service.put_role(LOCAL_OPERATOR, "key-admin", tuple(KEY_ADMIN))
    return call(access, await make(access, tenant="acme", roles=("key-admin",)))


async def test_a_created_key_is_let_in_at_once_as_what_it_was_made(access: Access) -> None:
    created = await make(access, roles=("operator",), scopes=("inference", "nodes:read"), models=("ramsey-model",))
    caller = call(access, created)
    assert (caller.id, caller.name, caller.tenant) == (created.new.public_id, "shop", "default")
    assert caller.permissions == {Permission.INFERENCE, Permission.NODES_READ}
    caller.require_model("ramsey-model")
    with pytest.raises(Forbidden, match="other"):
        caller.require_model("other")
    with pytest.raises(Forbidden, match="nodes:write"):
        caller.require(Permission.NODES_WRITE)


async def test_a_key_that_was_made_is_shown_also_where_the_database_goes_away_just_then(database_url: str) -> None:
    async def gone() -> None:
        raise DatabaseUnavailable("It went away.")

    database = Database(database_url)
    await database.upgrade()
    service = AccessService(AccessStore(database), AuditStore(database), HeldClock(), gone, {})
    made = await service.create_key(LOCAL_OPERATOR, KeyWish("shop"))
    assert [key.sha256 for key in await service.keys(LOCAL_OPERATOR)] == [made.new.sha256]
    await database.close()


async def test_only_the_hash_is_kept(access: Access, database_url: str) -> None:
    created = await make(access)
    record = await access.service.key(LOCAL_OPERATOR, created.new.public_id)
    assert created.new.key not in repr(record)
    assert created.new.key.split("_")[2] not in repr(record)
    assert record.sha256 == created.new.sha256


async def test_a_revoked_key_is_nobody(access: Access) -> None:
    created = await make(access)
    call(access, created)
    revoked = await access.service.revoke_key(LOCAL_OPERATOR, created.new.public_id)
    with pytest.raises(Unauthenticated):
        call(access, created)
    again = await access.service.revoke_key(LOCAL_OPERATOR, created.new.public_id)
    assert again.revoked_at == revoked.revoked_at
    assert access.service.state(again) == "revoked"


async def test_a_key_works_until_the_moment_it_expires(access: Access, clock: HeldClock) -> None:
    created = await make(access, expires_at=clock.now() + timedelta(hours=1))
    clock.advance(3599.9)
    await access.service.keys(LOCAL_OPERATOR)
    await access._sync.refresh()
    call(access, created)
    clock.advance(0.1)
    with pytest.raises(Unauthenticated, match="expired at 2026-11-24 13:00:00"):
        call(access, created)


async def test_a_key_can_be_bound_to_networks(access: Access) -> None:
    created = await make(access, networks=("10.0.0.0/8", "2001:db8::/32"))
    for inside in ("10.1.2.3", "2001:db8::5", "::ffff:10.9.9.9"):
        assert call(access, created, inside).name == "shop"
    for outside in ("11.0.0.1", "2001:db9::1", "testclient", "::ffff:11.0.0.1"):
        with pytest.raises(Forbidden, match="this address"):
            call(access, created, outside)


async def test_after_a_rotation_both_keys_work_until_the_overlap_ends(access: Access, clock: HeldClock) -> None:
    old = await make(access, roles=("viewer",), networks=("203.0.113.0/24",))
    new = await access.service.rotate_key(LOCAL_OPERATOR, old.new.public_id, timedelta(minutes=10))
    assert call(access, old).permissions == call(access, new).permissions == BUILT_IN_ROLES["viewer"]
    clock.advance(600)
    await access._sync.refresh()
    with pytest.raises(Unauthenticated, match="expired"):
        call(access, old)
    assert call(access, new).name == "shop"
    record = await access.service.key(LOCAL_OPERATOR, old.new.public_id)
    assert record.replaced_by == new.new.public_id


async def test_a_rotation_never_lengthens_a_life(access: Access, clock: HeldClock) -> None:
    ends = clock.now() + timedelta(minutes=5)
    old = await make(access, expires_at=ends)
    new = await access.service.rotate_key(LOCAL_OPERATOR, old.new.public_id, timedelta(days=1))
    record = await access.service.key(LOCAL_OPERATOR, old.new.public_id)
    assert record.expires_at == new.record.expires_at == ends


async def test_what_is_no_longer_active_or_was_rotated_cannot_be_rotated(access: Access) -> None:
    first, second = await make(access), await make(access)
    await access.service.revoke_key(LOCAL_OPERATOR, first.new.public_id)
    await access.service.rotate_key(LOCAL_OPERATOR, second.new.public_id, timedelta(hours=1))
    for public_id, why in ((first.new.public_id, "revoked"), (second.new.public_id, "successor")):
        with pytest.raises(Conflict, match=why):
            await access.service.rotate_key(LOCAL_OPERATOR, public_id, timedelta(0))


async def test_of_rotations_at_once_one_succeeds(access: Access) -> None:
    old = await make(access)
    rotations = [access.service.rotate_key(LOCAL_OPERATOR, old.new.public_id, timedelta(hours=1)) for _ in range(6)]
    results = await asyncio.gather(*rotations, return_exceptions=True)
    assert sum(isinstance(result, CreatedKey) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 5
    assert len(await access.service.keys(LOCAL_OPERATOR)) == 2


async def test_last_use_is_written_behind(access: Access, clock: HeldClock) -> None:
    created = await make(access)
    assert created.record.last_used_at is None
    used_at = clock.now()
    call(access, created)
    await access._sync.flush()
    clock.advance(9)
    record = await access.service.key(LOCAL_OPERATOR, created.new.public_id)
    assert record.last_used_at == used_at


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ({"name": ""}, InvalidRequest),
        ({"name": "line\nbreak"}, InvalidRequest),
        ({"name": "n" * 65}, InvalidRequest),
        ({"roles": ()}, InvalidRequest),
        ({"roles": ("wizard",)}, InvalidRequest),
        ({"scopes": ("everything",)}, InvalidRequest),
        ({"models": ("ramsey-model:v1.1",)}, InvalidRequest),
        ({"models": ("Ramsey-Model",)}, InvalidRequest),
        ({"networks": ("10.0.0.1/8",)}, InvalidRequest),
        ({"networks": ("example.com",)}, InvalidRequest),
        ({"expires_at": HeldClock().now()}, InvalidRequest),
        ({"expires_at": HeldClock().now().replace(tzinfo=None)}, InvalidRequest),
        ({"tenant": "nobody"}, NotFound),
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused(
    access: Access, wish: dict[str, object], error: type[RamseyError]
) -> None:
    with pytest.raises(error):
        await make(access, **wish)
    assert await access.service.keys(LOCAL_OPERATOR) == []


async def test_nobody_gives_what_they_lack(access: Access) -> None:
    actor = await tenant_admin(access)
    operator_key = await make(access, tenant="acme", roles=("operator",))
    made = await access.service.create_key(actor, KeyWish("mine", roles=("user",)))
    assert made.record.tenant == "acme"
    assert made.record.created_by == actor.id
    with pytest.raises(Forbidden, match="nodes:write"):
        await access.service.create_key(actor, KeyWish("more", roles=("operator",)))
    with pytest.raises(Forbidden):
        await access.service.rotate_key(actor, operator_key.new.public_id, timedelta(0))
    narrowed = await access.service.create_key(actor, KeyWish("less", roles=("operator",), scopes=("inference",)))
    assert call(access, narrowed).permissions == {Permission.INFERENCE}
    only_small = replace(actor, models=frozenset({"small"}))
    with pytest.raises(Forbidden, match="models"):
        await access.service.create_key(only_small, KeyWish("all models"))


async def test_another_tenants_things_do_not_exist(access: Access) -> None:
    actor = await tenant_admin(access)
    foreign = (await make(access)).new.public_id
    service = access.service
    for act in (
        service.key(actor, foreign),
        service.revoke_key(actor, foreign),
        service.rotate_key(actor, foreign, timedelta(0)),
        service.keys(actor, "default"),
        service.create_key(actor, KeyWish("spy", tenant="default")),
    ):
        with pytest.raises(NotFound):
            await act
    assert {key.tenant for key in await service.keys(actor)} == {"acme"}
    assert {key.tenant for key in await service.keys(LOCAL_OPERATOR)} == {"acme", "default"}
    assert [tenant.id for tenant in await service.tenants(actor)] == ["acme"]
    for forbidden in (
        service.create_tenant(actor, "evil", "Evil"),
        service.set_tenant_enabled(actor, "default", False),
        service.put_role(actor, "key-admin", ("nodes:write",)),
        service.delete_role(actor, "key-admin"),
    ):
        with pytest.raises(Forbidden, match="tenants:all"):
            await forbidden


async def test_keys_come_in_pages(access: Access) -> None:
    made = sorted([(await make(access)).new.public_id for _ in range(5)])
    first = await access.service.keys(LOCAL_OPERATOR, limit=3)
    second = await access.service.keys(LOCAL_OPERATOR, after=first[-1].public_id, limit=3)
    assert sorted(key.public_id for key in first + second) == made


async def test_a_disabled_tenant_is_kept_out_until_it_is_enabled(access: Access) -> None:
    await access.service.create_tenant(LOCAL_OPERATOR, "acme", "Acme Ltd")
    created, other = await make(access, tenant="acme"), await make(access)
    await access.service.set_tenant_enabled(LOCAL_OPERATOR, "acme", False)
    with pytest.raises(Unauthenticated):
        call(access, created)
    with pytest.raises(NotFound):
        await make(access, tenant="acme")
    assert call(access, other).tenant == "default"
    await access.service.set_tenant_enabled(LOCAL_OPERATOR, "acme", True)
    assert call(access, created).tenant == "acme"
    with pytest.raises(Conflict, match="lock yourself out"):
        await access.service.set_tenant_enabled(LOCAL_OPERATOR, "default", False)
    with pytest.raises(Conflict):
        await access.service.create_tenant(LOCAL_OPERATOR, "acme", "Acme again")


async def test_an_own_role_changes_what_its_keys_may_do(access: Access) -> None:
    await access.service.put_role(LOCAL_OPERATOR, "billing", ("usage:read",))
    created = await make(access, roles=("billing",))
    assert call(access, created).permissions == {Permission.USAGE_READ}
    await access.service.put_role(LOCAL_OPERATOR, "billing", ("usage:read", "audit:read"))
    assert call(access, created).permissions == {Permission.USAGE_READ, Permission.AUDIT_READ}
    await access.service.delete_role(LOCAL_OPERATOR, "billing")
    assert call(access, created).permissions == frozenset()
    for name, error in (("admin", Conflict), ("Bad Name", InvalidRequest)):
        with pytest.raises(error):
            await access.service.put_role(LOCAL_OPERATOR, name, ("inference",))
    with pytest.raises(NotFound):
        await access.service.delete_role(LOCAL_OPERATOR, "billing")

"""What an actor may give away. Pure: one function decides, the service carries out."""

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from deployment.access.model import Principal
from deployment.access.permissions import BUILT_IN_ROLES, Permission, permitted
from deployment.errors import Forbidden, InvalidRequest, NotFound
from deployment.settings import Price

_MODEL = re.compile(r"[a-z0-9_][a-z0-9_./-]{0,127}")
OwnRoles = Mapping[str, frozenset[Permission]]


@dataclass(frozen=True, slots=True)
class KeyWish:
    """What a new key shall be."""

    name: str
    tenant: str | None = None
    """None for the actor's own."""
    roles: tuple[str, ...] = ("user",)
    scopes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    expires_at: datetime | None = None


def check_wish(wish: KeyWish, actor: Principal, tenants: Collection[str], own_roles: OwnRoles, now: datetime) -> None:
    """Raise the error that says why this actor may not have such a key. `tenants` are the enabled ones."""
    check_name(wish.name)
    tenant = wish.tenant or actor.tenant
    check_tenant(actor, tenant)
    if tenant not in tenants:
        hint = f"Make it: `ramsey tenants create {tenant}`; one that is disabled: `ramsey tenants enable {tenant}`."
        raise NotFound(f"There is no enabled tenant {tenant}.", hint=hint)
    if not wish.roles:
        raise InvalidRequest("A key needs at least one role.", hint=f"Built in: {', '.join(BUILT_IN_ROLES)}.")
    if unknown := [role for role in wish.roles if role not in BUILT_IN_ROLES and role not in own_roles]:
        raise InvalidRequest(f"There is no role {unknown[0]}.", hint=f"Built in: {', '.join(BUILT_IN_ROLES)}.")
    for model in wish.models:
        check_model_name(model)
    check_permissions(wish.scopes)
    check_grant(actor, permitted(wish.roles, wish.scopes, own_roles))
    check_models(actor, wish.models)
    for network in wish.networks:
        _check_network(network)
    if wish.expires_at is not None and wish.expires_at.tzinfo is None:
        raise InvalidRequest("expires_at needs a time zone.", hint="For instance 2027-01-31T12:00:00Z.")
    if wish.expires_at is not None and wish.expires_at <= now:
        raise InvalidRequest("expires_at lies in the past.")


def check_tenant(actor: Principal, tenant: str) -> None:
    """Another tenant's things are not told to exist."""
    if tenant != actor.tenant and Permission.TENANTS_ALL not in actor.permissions:
        raise NotFound(f"There is no enabled tenant {tenant}.", hint=f"Yours is {actor.tenant}.")


def check_grant(actor: Principal, granted: Iterable[Permission]) -> None:
    """Nobody gives what they don't have: else who may make keys could make one that may do all."""
    if missing := sorted(set(granted) - actor.permissions):
        raise Forbidden(f"You cannot give permissions that you lack: {', '.join(missing)}.")


def check_models(actor: Principal, models: Collection[str]) -> None:
    """Who may ask some models only makes keys for some of those."""
    if actor.models and not (models and actor.models.issuperset(models)):
        raise Forbidden(
            "You cannot give models that you may not use.", hint=f"Yours: {', '.join(sorted(actor.models))}."
        )


def check_model_name(name: str) -> None:
    """As traffic and requests name it, or nothing would ever be it."""
    if not _MODEL.fullmatch(name):
        raise InvalidRequest(
            f"{name[:64]!r} cannot be the name of a model.", hint="Give it in lower case and without a tag."
        )


def check_permissions(names: Iterable[str]) -> frozenset[Permission]:
    """These names as permissions."""
    known = {permission.value: permission for permission in Permission}
    names = tuple(names)
    if unknown := [name for name in names if name not in known]:
        raise InvalidRequest(f"There is no permission {unknown[0]}.", hint=f"There are: {', '.join(known)}.")
    return frozenset(known[name] for name in names)


def check_priced(models: Collection[str], prices: Mapping[str, Price]) -> None:
    """A budget of money for these models (empty for all) can only be used up where one of them costs something."""
    priced = {name for name, price in prices.items() if price.prompt or price.completion}
    if not priced or not (not models or "*" in priced or priced.intersection(models)):
        one = min(models) if models else "*"
        raise InvalidRequest(
            f"No price is set for {' or '.join(sorted(models)) or 'any model'}: the budget would never be used.",
            hint=f'Set one in the settings of the gateways: limits.prices."{one}" = {{ prompt = …, completion = … }}, '
            "for 1,000 tokens each.",
        )


def check_name(name: str) -> None:
    """A name for people: it appears in logs and tables."""
    if not (0 < len(name) <= 64 and name.isprintable() and name.strip() == name):
        raise InvalidRequest("A name is 1 to 64 printable characters, without spaces around it.")


def _check_network(network: str) -> None:
    try:
        ipaddress.ip_network(network)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", hint="Give networks as 10.0.0.0/8 or 2001:db8::/32.") from None

"""Somebody who may do a little and wants to do more."""

from typing import Any

import pytest
from tests.support.attacked import Target


def role(target: Target, name: str, *permissions: str) -> str:
    answer = target.ask("PUT", f"/admin/roles/{name}", target.admin, json={"permissions": list(permissions)})
    assert answer.status_code == 200, answer.text
    return target.key(roles=[name])


@pytest.fixture(scope="module")
def keeper(target: Target) -> str:
    """Makes keys and roles, and may call the model; nothing else."""
    return role(target, "keeper", "keys:read", "keys:write", "roles:read", "roles:write", "inference", "models:read")


@pytest.mark.parametrize(
    "wish",
    [
        {"roles": ["admin"]},
        {"roles": ["operator"]},
        {"roles": ["viewer"]},
        {"roles": ["user", "admin"]},
        {"roles": ["user"]},
        {"roles": ["admin"], "scopes": ["tenants:all"]},
    ],
)
def test_a_key_that_may_more_than_its_maker(target: Target, keeper: str, wish: dict[str, Any]) -> None:
    answer = target.ask("POST", "/admin/keys", keeper, json={"name": "x", **wish})
    assert answer.status_code == 403
    assert "permissions that you lack" in answer.text
    narrowed = target.ask(
        "POST", "/admin/keys", keeper, json={"name": "x", "roles": ["admin"], "scopes": ["inference"]}
    )
    assert narrowed.status_code == 201, "what its scopes leave is not more"


@pytest.mark.parametrize("name", ["keeper", "mine", "admin", "user", "ADMIN", "admin ", "../admin"])
def test_a_role_made_larger(target: Target, keeper: str, name: str) -> None:
    """Roles are of all tenants: whoever may not act in all of them changes none, and nobody changes a built-in one."""
    answer = target.ask("PUT", f"/admin/roles/{name}", keeper, json={"permissions": ["inference"]})
    assert answer.status_code in {403, 404}
    everywhere = role(target, "everywhere", "roles:write", "tenants:all")
    larger = target.ask("PUT", f"/admin/roles/{name}", everywhere, json={"permissions": ["keys:write"]})
    assert larger.status_code in {400, 403, 404, 409}
    assert target.ask("DELETE", "/admin/roles/admin", target.admin).status_code == 409


@pytest.mark.parametrize("permission", ["root", "*", "keys:*", "KEYS:WRITE", "", "keys:write\u0000"])
def test_a_permission_that_there_is_not(target: Target, permission: str) -> None:
    for method, path, body in (
        ("PUT", "/admin/roles/odd", {"permissions": [permission]}),
        ("POST", "/admin/keys", {"name": "x", "scopes": [permission]}),
        ("POST", "/admin/keys", {"name": "x", "roles": [permission]}),
    ):
        assert target.ask(method, path, target.admin, json=body).status_code == 400


def test_an_administrators_key_rotated_by_somebody_else(target: Target, keeper: str) -> None:
    """Whoever rotates a key gets its successor: so nobody rotates one that may more."""
    theirs = target.made("/admin/keys", {"name": "boss", "roles": ["admin"]})
    answer = target.ask("POST", f"/admin/keys/{theirs['public_id']}/rotate", keeper, json={"overlap_seconds": 0})
    assert answer.status_code == 403
    assert target.ask("GET", "/admin/keys", theirs["key"]).status_code == 200


@pytest.mark.parametrize(
    "more",
    [{"models": []}, {"networks": []}, {"scopes": []}, {"roles": ["admin"]}, {"expires_at": None}, {"tenant": "x"}],
)
def test_a_key_widened_by_its_rotation(target: Target, more: dict[str, Any]) -> None:
    bound = {"models": ["m"], "networks": ["127.0.0.0/8"], "scopes": ["keys:write", "inference"]}
    made = target.made("/admin/keys", {"name": "bound", "roles": ["admin"], **bound})
    path = f"/admin/keys/{made['public_id']}/rotate"
    assert target.ask("POST", path, target.admin, json={"overlap_seconds": 0, **more}).status_code == 400
    rotated = target.ask("POST", path, made["key"], json={"overlap_seconds": 0}).json()
    for name in ("models", "networks", "scopes", "roles", "tenant", "expires_at"):
        assert rotated[name] == made[name], name


def test_a_key_for_models_that_its_maker_may_not_ask(target: Target) -> None:
    bound = target.key(roles=["admin"], models=["m"])
    for models in ([], ["other"], ["m", "other"]):
        assert target.ask("POST", "/admin/keys", bound, json={"name": "x", "models": models}).status_code == 403
    assert target.ask("POST", "/admin/keys", bound, json={"name": "x", "models": ["m"]}).status_code == 201


@pytest.mark.parametrize("field", ["public_id", "sha256", "created_by", "key", "permissions", "disabled", "id"])
def test_fields_that_only_the_gateway_writes(target: Target, field: str) -> None:
    for path, body in (("/admin/keys", {"name": "x"}), ("/admin/tenants", {"id": "z", "name": "x"})):
        if field not in body:
            assert target.ask("POST", path, target.admin, json=body | {field: "x"}).status_code == 400


def test_an_administrator_locked_out_by_their_own_hand(target: Target) -> None:
    assert target.ask("POST", "/admin/tenants/default/disable", target.admin).status_code == 409


def test_a_user_asks_for_everything_of_administration(target: Target) -> None:
    """Every route under /admin that the documents name, and what is only for those who look after the gateway."""
    document = target.ask("GET", "/openapi.json").json()
    asked = 0
    for path, operations in document["paths"].items():
        for method in operations:
            if path.startswith("/admin") or path == "/metrics":
                asked += 1
                answer = target.ask(method.upper(), path.replace("{", "x").replace("}", ""), target.user, json={})
                assert answer.status_code == 403, (method, path, answer.text)
                assert target.ask(method.upper(), path.replace("{", "x").replace("}", ""), json={}).status_code == 401
    assert asked > 40


def test_an_operator_is_no_administrator(target: Target) -> None:
    operator = target.key(roles=["operator"])
    for method, path in (
        ("GET", "/admin/keys"),
        ("GET", "/admin/audit"),
        ("GET", "/admin/limits"),
        ("GET", "/admin/tenants"),
        ("POST", "/admin/privacy/export"),
    ):
        assert target.ask(method, path, operator, json={"subject": "x"}).status_code == 403

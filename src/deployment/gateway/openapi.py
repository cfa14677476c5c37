"""What the OpenAPI document says of endpoints that parse their own bodies."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from deployment.access import PERMISSION, PUBLIC, Permission, declared

_REFERENCE = "#/components/schemas/{model}"
_PROBLEMS = {
    400: "The request is wrong; the message names the field.",
    401: "No key, or one that is not known.",
    403: "Known, but not allowed to do this.",
    404: "The model is not served here.",
    408: "The body did not arrive in time.",
    413: "The body or the prompt is too large.",
    429: "Over a limit, or the queue is full; Retry-After says when to come back.",
    502: "The engine failed.",
    503: "No engine can answer now.",
    504: "The engine did not answer in time.",
}


def describe(path: str, schema: type[BaseModel], permission: Permission) -> dict[str, Any]:
    """Arguments of `add_api_route`: the body's schema, the errors that may come, the permission."""
    return {
        "openapi_extra": {
            PERMISSION: permission.value,
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}},
            },
        },
        "responses": {status: {"description": text} for status, text in _PROBLEMS.items()},
        "operation_id": path.strip("/").replace("/", "_"),
    }


def document(app: FastAPI, schemas: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of the bodies that `describe` named."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema([(schema, "validation") for schema in schemas], ref_template=_REFERENCE)
    for route in iter_route_contexts(app.routes):
        for method in route.methods or () if getattr(route, "include_in_schema", False) else ():
            operation = found["paths"][route.path_format][method.lower()]
            operation[PERMISSION] = needed = declared(route.original_route)
            _correct(operation["responses"], public=needed == PUBLIC)
    components = found.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    found["security"] = [{"bearer": []}, {"key": []}, {}]
    app.openapi_schema = found
    return found


def _correct(responses: dict[str, Any], *, public: bool) -> None:
    """FastAPI takes our JSON for strings, and announces a 422 that is a 400 here."""
    if responses.pop("422", None) is not None:
        responses.setdefault("400", {"description": _PROBLEMS[400]})
    if not public:
        for status in (401, 403):
            responses.setdefault(str(status), {"description": _PROBLEMS[status]})
    content = responses.get("200", {}).get("content", {})
    if content.get("application/json", {}).get("schema") == {"type": "string"}:
        content["application/json"]["schema"] = {"type": "object"}

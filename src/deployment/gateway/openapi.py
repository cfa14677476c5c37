"""What the OpenAPI document says of endpoints that parse their own bodies."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_REFERENCE = "#/components/schemas/{model}"
_PROBLEMS = {
    400: "The request is wrong; the message names the field.",
    401: "No key, or one that is not known.",
    404: "The model is not served here.",
    408: "The body did not arrive in time.",
    413: "The body or the prompt is too large.",
    429: "Over a limit, or the queue is full; Retry-After says when to come back.",
    502: "The engine failed.",
    503: "No engine can answer now.",
    504: "The engine did not answer in time.",
}


def describe(path: str, schema: type[BaseModel]) -> dict[str, Any]:
    """Arguments of `add_api_route`: the body's schema, and the errors that may come."""
    return {
        "openapi_extra": {
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
    components = found.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    found["security"] = [{"bearer": []}, {"key": []}, {}]
    app.openapi_schema = found
    return found

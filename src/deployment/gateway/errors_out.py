"""The error shapes of the three dialects, and which path speaks which."""

from typing import Any

from deployment.errors import RamseyError

NATIVE, OLLAMA, OPENAI = "native", "ollama", "openai"

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def dialect_of(path: str) -> str:
    """The dialect that a path speaks."""
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    return {"v1": OPENAI, "api": OLLAMA}.get(first, NATIVE)


def error_body(error: RamseyError, dialect: str, request_id: str) -> dict[str, Any]:
    """The error as a JSON object of the dialect, always with code, message and request id."""
    text = f"{error.message} {error.hint}" if error.hint else error.message
    if dialect == OPENAI:
        kind = _OPENAI_TYPES.get(error.status, "api_error")
        inner = {
            "message": text,
            "type": kind,
            "param": getattr(error, "param", None),
            "code": error.code,
            "request_id": request_id,
        }
        return {"error": inner}
    if dialect == OLLAMA:
        return {"error": text, "code": error.code, "request_id": request_id}
    inner = {"code": error.code, "message": error.message, "request_id": request_id}
    if error.hint:
        inner["hint"] = error.hint
    return {"error": inner}

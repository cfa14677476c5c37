"""The one tree of errors. A dialect or the command line renders them; nobody else writes error shapes."""

from math import ceil


class RamseyError(Exception):
    """Base of everything that Ramsey raises on purpose.

    `code` is stable and for machines, `message` is for people, `hint` says what to do next.
    `status` is the HTTP status that a gateway answers with.
    """

    code = "internal_error"
    status = 500

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    @property
    def retry_after(self) -> str | None:
        """What the header Retry-After says: whole seconds, and never too early."""
        return None if self.retry_after_s is None else str(max(1, ceil(self.retry_after_s)))


# --- the caller's mistakes -------------------------------------------------------------------------------


class InvalidRequest(RamseyError):
    """The request cannot be understood or is not allowed as it stands. `param` names the field that is wrong."""

    code = "invalid_request"
    status = 400

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class Unauthenticated(RamseyError):
    """No credential, or one that we don't know."""

    code = "unauthenticated"
    status = 401


class Forbidden(RamseyError):
    """We know who calls, and they may not do this."""

    code = "forbidden"
    status = 403


class SignInFailed(RamseyError):
    """A browser came back from its provider with what cannot be used; nobody was signed in."""

    code = "sign_in_failed"
    status = 400


class NotFound(RamseyError):
    """There is no such endpoint or thing."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """No model or release of that name is served here."""

    code = "model_not_found"


class MethodNotAllowed(RamseyError):
    """The endpoint exists, but not with this HTTP method."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(RamseyError):
    """The caller did not send its request in time."""

    code = "request_timeout"
    status = 408


class Conflict(RamseyError):
    """What is asked does not fit the state of things, for instance a name that is taken."""

    code = "conflict"
    status = 409


class PayloadTooLarge(RamseyError):
    """The body or the prompt is over its limit."""

    code = "payload_too_large"
    status = 413


class RateLimited(RamseyError):
    """The caller is over a limit, or the queue is full; `retry_after_s` says when to come back."""

    code = "rate_limited"
    status = 429


# --- the engine's faults ---------------------------------------------------------------------------------


class EngineError(RamseyError):
    """A node failed. `retryable` = another node may well serve the same request."""

    code = "engine_error"
    status = 502
    retryable = True


class EngineUnavailable(EngineError):
    """No node can be reached."""

    code = "engine_unavailable"
    status = 503


class EngineBusy(EngineError):
    """The node refuses more work for now (Ollama's 503)."""

    code = "engine_busy"
    status = 503


class EngineTimeout(EngineError):
    """The node did not answer, or fell silent, within its time."""

    code = "engine_timeout"
    status = 504


class EngineCrashed(EngineError):
    """The model's runner died under the request."""

    code = "engine_crashed"
    status = 502


class EngineProtocolError(EngineError):
    """The node sent what the protocol does not allow."""

    code = "engine_protocol_error"
    status = 502


class StreamIncomplete(EngineProtocolError):
    """The answer ended without its end marker: what came so far may be cut."""

    code = "engine_stream_incomplete"


class EngineRefused(EngineError):
    """The node refused the request as the caller's fault: another node would refuse it too."""

    code = "engine_refused"
    status = 400
    retryable = False

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ModelMissing(EngineError):
    """The node does not hold the model (or lost its weights)."""

    code = "model_missing"
    status = 503


# --- our own state ---------------------------------------------------------------------------------------


class Draining(RamseyError):
    """The server is about to stop and takes no new work."""

    code = "draining"
    status = 503


class DatabaseUnavailable(RamseyError):
    """The state cannot be reached. What is in memory goes on serving for a stated time."""

    code = "database_unavailable"
    status = 503


class DiskFull(RamseyError):
    """There is no room for a file that must be written. What was there is untouched."""

    code = "disk_full"
    status = 507


class ProviderUnavailable(RamseyError):
    """A provider of identities does not answer, or its keys are not here: a token cannot be checked now."""

    code = "identity_provider_unavailable"
    status = 503


class ProviderRefused(RamseyError):
    """A provider of identities does not take this service for what it says it is."""

    code = "identity_provider_refused"
    status = 502


class ConfigurationError(RamseyError):
    """A setting, file or command is wrong; nothing was started or changed."""

    code = "configuration_error"


class StartupError(RamseyError):
    """Something that must run could not be started."""

    code = "startup_error"

"""The gateway: whether it would start, runs, and who can reach it."""

import asyncio
import errno

from deployment.cli.checks.finding import Finding, logs, weights_size
from deployment.cli.claim import running
from deployment.cli.gateway import Gateway, address
from deployment.clock import SystemClock
from deployment.engines import is_loopback
from deployment.errors import ConfigurationError, RamseyError, StartupError
from deployment.gateway.listener import bind
from deployment.preflight import refusals
from deployment.releases import check_model, local_doubts
from deployment.secret_store import looked_up
from deployment.settings import Settings


def start(settings: Settings) -> list[Finding]:
    """What a gateway refuses to start with."""
    found = asyncio.run(refusals(settings))
    return [Finding(name, "wrong", error.message, error.hint or "") for name, error in found.items()]


def limits(settings: Settings) -> list[Finding]:
    """Models that limits, prices and keys name, and what budgets of money are for."""
    try:
        found = asyncio.run(local_doubts(looked_up(settings), SystemClock()))
    except RamseyError:
        return []  # the state's check says why
    return [Finding("limits", "warning", text, _mend_of_limits(text)) for text in found]


def _mend_of_limits(text: str) -> str:
    if "not served" in text:
        return "Correct the name, or leave it where the model is still to come (ramsey limits list, ramsey keys list)."
    if "no price" in text:
        return "Give it a price, 0 where it shall be free: limits.prices in the settings."
    return "Set limits.redis_url for all of them, or limits.gateways, for each to take its share."


def model(settings: Settings) -> list[Finding]:
    """The Modelfile and its weights."""
    if settings.model.modelfile is None:
        return [Finding("model", "ok", "no Modelfile: what the nodes hold is served")]
    try:
        check_model(settings)
    except ConfigurationError:
        return []  # `start` tells it
    return [Finding("model", "ok", f"{settings.model.modelfile}, {weights_size(settings) / 1e6:,.1f} MB")]


def gateway(settings: Settings) -> list[Finding]:
    """Who has the port, and whether it can answer."""
    server = settings.server
    here = running(settings.data_dir)
    url = here.url if here and here.url else address(server)
    try:
        code, health = Gateway(url, timeout_s=5.0, certificate=server.tls_cert).status("/health")
    except RamseyError as error:
        try:
            bind(server).close()
            return [Finding("gateway", "ok", f"does not run; {server.host}:{server.port} is free")]
        except StartupError as refused:
            if getattr(refused.__cause__, "errno", None) != errno.EADDRINUSE:
                return [Finding("gateway", "wrong", refused.message, refused.hint or "")]
        text = f"another program has {server.host}:{server.port} ({error.message})"
        return [Finding("gateway", "wrong", text, "Stop it, or choose another port: ramsey up --port 8001")]
    if "status" not in health:
        text = f"what answers at {url} is no Ramsey"
        return [Finding("gateway", "wrong", text, "Stop it, or choose another port: ramsey up --port 8001")]
    if code != 200:
        reasons = [part.get("reason", "") for part in health.values() if isinstance(part, dict) and not part.get("ok")]
        return [Finding("gateway", "wrong", f"{url} cannot answer: {' '.join(reasons)}", f"Logs: {logs(settings)}")]
    return [Finding("gateway", "ok", f"runs at {url} and can answer")]


def exposure(settings: Settings) -> list[Finding]:
    """The gateway beyond this machine, and whether it asks for keys there."""
    if is_loopback(settings.server.host):
        return [Finding("exposure", "ok", "the gateway listens on this machine alone")]
    if not settings.access.keys:
        text = (
            f"the gateway listens on {settings.server.host}: without a stored key, callers from elsewhere are refused"
        )
        return [Finding("exposure", "warning", text, "Make one: ramsey keys create --name NAME")]
    text = f"the gateway listens on {settings.server.host}; callers need one of {len(settings.access.keys)} keys"
    return [Finding("exposure", "ok", text)]

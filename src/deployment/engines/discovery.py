"""Nodes behind DNS names, for instance a headless service's: looked up again and again."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from deployment.background import forever
from deployment.engines.model import NodeSpec
from deployment.errors import ConfigurationError
from deployment.settings import PoolSettings

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.name import Name

_log = structlog.get_logger("engines")
_OLLAMA_PORT = 11434

Endpoint = tuple[str, int]


def split_name(name: str) -> Endpoint:
    """`host:port`; without a port Ollama's."""
    host, colon, port = name.rpartition(":")
    return (host, int(port)) if colon and port.isdecimal() else (name, _OLLAMA_PORT)


def spec_of(address: str, port: int, slots: int) -> NodeSpec:
    """The node at an address; its name is the address, so that it is the same after each look-up."""
    shown = f"[{address}]" if ":" in address else address
    return NodeSpec(f"{shown}:{port}", f"http://{shown}:{port}", slots, source="dns")


async def addresses(name: str) -> list[Endpoint]:
    """A and AAAA records of `host:port`."""
    host, port = split_name(name)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({(str(info[4][0]), port) for info in found})


async def services(name: str, resolver: "Resolver | None" = None) -> list[Endpoint]:
    """The addresses behind SRV records of `_service._tcp.name`, those of the first priority only."""
    try:
        from dns.asyncresolver import Resolver
        from dns.exception import DNSException
    except ImportError:
        raise ConfigurationError(
            f"{name} needs SRV records.", hint="pip install 'ramsey[dns]', or set host:port."
        ) from None
    resolver = resolver or Resolver()
    try:
        records = list(await resolver.resolve(name, "SRV"))
        first = min(record.priority for record in records)
        ends: set[Endpoint] = set()
        for record in records:
            if record.priority == first:
                ends |= {(address, int(record.port)) for address in await _addresses_of(record.target, resolver)}
    except DNSException as error:
        raise OSError(str(error)) from None
    return sorted(ends)


async def _addresses_of(host: "Name", resolver: "Resolver") -> list[str]:
    """IPv4 and IPv6. A server that knows only the one often refuses to be asked for the other."""
    found = await asyncio.gather(
        *(resolver.resolve(host, kind) for kind in ("A", "AAAA")),
        return_exceptions=True,
    )
    answers = [answer for answer in found if not isinstance(answer, BaseException)]
    if not answers:
        raise next(error for error in found if isinstance(error, BaseException))
    return [record.address for answer in answers for record in answer]


class Discovery:
    """Keeps the members behind `settings.dns` up to date; a name that fails keeps the nodes it had."""

    def __init__(
        self,
        settings: PoolSettings,
        slots: int,
        report: Callable[[list[NodeSpec]], Awaitable[None]],
        look_up: Callable[[str], Awaitable[list[Endpoint]]] | None = None,
    ) -> None:
        self._names = settings.dns
        self._interval = settings.dns_interval
        self._timeout = min(settings.dns_interval, 5.0)
        self._slots = slots
        self._report = report
        self._look_up = look_up or _look_up
        self._known: dict[str, list[Endpoint]] = {}
        self._problems: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, where there are names."""
        if self._names:
            self._task = asyncio.create_task(forever(self._run, "nodes by DNS"), name="discovery")

    async def close(self) -> None:
        """End."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await self._once()
            await asyncio.sleep(self._interval)

    async def _once(self) -> None:
        before = dict(self._known)
        await asyncio.gather(*(self._resolve(name) for name in self._names))
        if self._known != before:
            ends = sorted({end for found in self._known.values() for end in found})
            await self._report([spec_of(address, port, self._slots) for address, port in ends])

    async def _resolve(self, name: str) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._look_up(name)
        except (OSError, TimeoutError, ConfigurationError) as error:
            reason = f"no answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else str(error)
            if self._problems.get(name) != reason:  # each reason once, however often it is tried
                _log.warning("DNS look-up failed; the nodes it had stay", name=name, reason=reason)
            self._problems[name] = reason
            return
        if self._problems.pop(name, None) is not None:
            _log.info("DNS look-up works again", name=name)
        self._known[name] = found


async def _look_up(name: str) -> list[Endpoint]:
    return await (services(name) if name.startswith("_") else addresses(name))

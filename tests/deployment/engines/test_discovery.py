"""Nodes behind DNS names, with a real DNS server of our own."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import structlog
from structlog.testing import capture_logs
from tests.deployment.engines.conftest import MakePool, ask, chat, states, until
from tests.support.fake_node import FakeNode

from deployment.engines.discovery import Discovery, Endpoint, addresses, services, spec_of, split_name
from deployment.engines.model import NodeSpec
from deployment.settings import PoolSettings

SERVICE = "_ollama._tcp.nodes.test."


class Zone(asyncio.DatagramProtocol):
    """Answers with what it is told."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.refused: set[str] = set()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if kind in self.refused:
            answer.set_rcode(dns.rcode.REFUSED)
        if values := self.records.get((str(question.name), kind)):
            answer.answer.append(dns.rrset.from_text(question.name, 1, "IN", kind, *values))
        assert self._transport is not None
        self._transport.sendto(answer.to_wire(), addr)


@pytest.fixture
async def zone() -> AsyncIterator[tuple[Zone, dns.asyncresolver.Resolver]]:
    transport, zone = await asyncio.get_running_loop().create_datagram_endpoint(Zone, local_addr=("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    yield zone, resolver
    transport.close()


def test_names() -> None:
    assert split_name("nodes.test:8080") == ("nodes.test", 8080)
    assert split_name("nodes.test") == ("nodes.test", 11434)
    assert spec_of("::1", 80, 2) == NodeSpec("[::1]:80", "http://[::1]:80", 2, source="dns")


async def test_srv_records_name_hosts_and_ports_and_only_the_first_priority_counts(
    zone: tuple[Zone, dns.asyncresolver.Resolver],
) -> None:
    records, resolver = zone
    records.records = {
        (SERVICE, "SRV"): ["0 1 11434 n1.test.", "0 1 11435 n2.test.", "9 1 1 spare.test."],
        ("n1.test.", "A"): ["10.0.0.1"],
        ("n2.test.", "A"): ["10.0.0.2", "10.0.0.3"],
        ("spare.test.", "A"): ["10.0.0.9"],
    }
    found = await services(SERVICE, resolver)
    assert found == [("10.0.0.1", 11434), ("10.0.0.2", 11435), ("10.0.0.3", 11435)]


async def test_a_server_that_refuses_one_kind_of_address_still_tells_the_other(
    zone: tuple[Zone, dns.asyncresolver.Resolver],
) -> None:
    records, resolver = zone
    records.records = {(SERVICE, "SRV"): ["1 0 80 a.nodes.test."], ("a.nodes.test.", "A"): ["127.0.0.1"]}
    records.refused = {"AAAA"}
    assert await services(SERVICE, resolver) == [("127.0.0.1", 80)]
    records.refused = {"AAAA", "A"}
    records.records.pop(("a.nodes.test.", "A"))
    with pytest.raises(OSError, match="REFUSED"):
        await services(SERVICE, resolver)


async def test_a_name_that_is_not_there_is_an_error_of_the_system_s_kind(
    zone: tuple[Zone, dns.asyncresolver.Resolver],
) -> None:
    with pytest.raises(OSError, match=r"nodes\.test"):
        await services(SERVICE, zone[1])


async def test_a_host_s_addresses_are_nodes() -> None:
    assert ("127.0.0.1", 9) in await addresses("localhost:9")


async def test_nodes_come_and_go_and_stay_while_the_name_fails() -> None:
    answers: list[list[Endpoint] | OSError] = [
        [("10.0.0.1", 1)],
        OSError("no answer"),
        OSError("no answer"),
        [("10.0.0.1", 1), ("10.0.0.2", 1)],
        [("10.0.0.2", 1)],
    ]
    reports: list[list[str]] = []

    async def look_up(_: str) -> list[Endpoint]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def report(specs: list[NodeSpec]) -> None:
        reports.append([spec.name for spec in specs])

    structlog.reset_defaults()  # another test of this process may log errors only
    discovery = Discovery(PoolSettings(dns=("x",), dns_interval=0.01), 4, report, look_up)
    with capture_logs() as logs:
        discovery.start()
        await until(lambda: len(reports) == 3)
        await discovery.close()
    told = [(log["log_level"], log.get("reason")) for log in logs]
    assert told == [("warning", "no answer"), ("info", None)]
    assert reports == [["10.0.0.1:1"], ["10.0.0.1:1", "10.0.0.2:1"], ["10.0.0.2:1"]]


async def test_a_pool_over_a_name(pool_over: MakePool) -> None:
    async with FakeNode() as node:
        port = node.url.rpartition(":")[2]
        async with pool_over([], dns=[f"127.0.0.1:{port}"], warm=False) as pool:
            await until(lambda: set(states(pool)) == {f"127.0.0.1:{port}"})
            assert await ask(pool, chat()) == f"127.0.0.1:{port}"

"""How faults strike an exchange: before the first byte, or within a stream."""

import os

from tests.support.fake_node.exchange import Exchange, Gone, Refused
from tests.support.fake_node.faults import Fault
from tests.support.fake_node.models import BUSY

CRASH = "model runner has unexpectedly stopped, this may be due to resource limitations"
PAGE = b"<html><body>502 Bad Gateway</body></html>"


async def before(x: Exchange, fault: Fault, model: str, *, may_die: bool) -> None:
    """What a fault without `after` does before the first byte; some strike later all the same."""
    what = "chat" if x.path == "/api/chat" else "generate"
    refusals = {
        "error": (fault.status, fault.text),
        "busy": (503, BUSY),
        "crash": (500, CRASH),
        "missing": (404, f"model '{model}' not found"),
        "lost_blob": (400, f'"{model}" does not support {what}'),
    }
    if fault.kind in refusals:
        raise Refused(*refusals[fault.kind])
    if fault.kind == "hang" and x.path not in {"/api/generate", "/api/chat"}:
        await x.pause(None)
    if fault.kind == "not_json":
        await x.raw(PAGE, 200, b"text/html")
        raise Gone
    if fault.kind == "empty":
        await x.raw(b"", fault.status)
        raise Gone
    if fault.kind == "garbage":
        x.garbage(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    _cut(x, fault, may_die)


async def within(x: Exchange, fault: Fault, line: bytes, *, may_die: bool) -> None:
    """What a fault does instead of sending `line`."""
    if fault.kind == "hang":
        await x.pause(None)
    if fault.kind in {"error", "crash"}:
        raise Refused(500, CRASH if fault.kind == "crash" else fault.text)
    if fault.kind == "garbage":
        x.garbage(b"zz not a chunk\r\n")
    _cut(x, fault, may_die)
    last = {
        "not_json": PAGE + b"\n",
        "long_line": b'{"response":"' + b"x" * fault.size + b'","done":false}\n',
        "half_line": line[: len(line) // 2],
    }
    await x.end_stream(last.get(fault.kind, b""))


def _cut(x: Exchange, fault: Fault, may_die: bool) -> None:
    if fault.kind == "close":
        x.garbage(b"")
    if fault.kind == "reset":
        x.reset()
    if fault.kind == "die":
        if may_die:
            os._exit(9)
        x.reset()

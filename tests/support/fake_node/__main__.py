"""A fake node as a process: prints `{"url": …}` when it listens; SIGTERM cuts every connection and ends it."""

import argparse
import asyncio
import json
import signal

from tests.support.fake_node import FakeModel, FakeNode
from tests.support.fake_node.models import full_name


async def serve(options: argparse.Namespace) -> None:
    names = options.model or ["ramsey-model:v1.1"]
    settings = {key: value for key, value in vars(options).items() if key not in {"port", "model"}}
    node = FakeNode([FakeModel(full_name(name)) for name in names], may_die=True, **settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await node.start(options.port)
    print(json.dumps({"url": node.url}), flush=True)  # noqa: T201
    await stop.wait()
    await node.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="fake_node", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", help="a model's name; may be repeated")
    for name, kind, default in (
        ("slots", int, 4),
        ("max-queue", int, 512),
        ("load-s", float, 0.0),
        ("token-delay-s", float, 0.0),
        ("tokens", int, None),
        ("open-delay-s", float, 0.0),
        ("keep-alive-s", float, 300.0),
        ("context-length", int, 4096),
        ("version", str, "0.33.0"),
        ("seed", int, 0),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    options = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(options))
    else:
        uvloop.run(serve(options))


if __name__ == "__main__":
    main()

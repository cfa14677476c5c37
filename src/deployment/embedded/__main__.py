"""`python -m deployment.embedded`: a node without the command line's settings."""

import argparse
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from deployment.embedded.node import NodeOptions, serve


def main() -> None:
    """Every option of NodeOptions is a flag: `--models-dir`, `--num-parallel`, …."""
    parser = argparse.ArgumentParser(prog="python -m deployment.embedded", description=__doc__)
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started it")
    for field in fields(NodeOptions):
        kinds: dict[str, Callable[[str], Any]] = {"models_dir": Path, "keep_alive": _keep_alive}
        kind = kinds.get(field.name, type(field.default))
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    flags = vars(parser.parse_args())
    logging.basicConfig(level=flags.pop("log_level"), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if flags.pop("until_stdin_closes"):
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    serve(NodeOptions(**flags))


def _end_with_stdin() -> None:
    """The kernel closes the pipe however its other end died, at `kill -9` too."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _keep_alive(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()

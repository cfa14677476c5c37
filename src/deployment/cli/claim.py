"""Who runs `ramsey up` on a data directory: a lock that ends with its process, and what that process says of itself.

A pid in a file may be another program's by now; a lock that is held cannot be.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from deployment.errors import StartupError

FILE = "up.lock"
_TRIES, _PAUSE_S = 5, 0.02


@dataclass(frozen=True, slots=True)
class Running:
    """A running `ramsey up`. `url` is empty until it is ready; `since` is in ISO 8601."""

    pid: int
    since: str
    url: str = ""
    engine: str = ""
    release: str = ""
    detached: bool = False


class Claim:
    """The lock, held."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def announce(self, running: Running) -> None:
        """Say who holds it."""
        self._file.seek(0)
        self._file.truncate()
        json.dump(asdict(running), self._file)
        self._file.flush()


@contextmanager
def claimed(data_dir: Path, running: Running) -> Iterator[Claim]:
    """Hold the directory. Raises StartupError when another one does, or when it cannot be written."""
    path = data_dir / FILE
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise StartupError(
            f"Cannot write {path}: {error.strerror or error}.", hint="Mend its rights, or set RAMSEY_DATA_DIR."
        ) from None
    with file:
        if not _lock(file):
            raise already_running(_read(file))
        claim = Claim(file)
        claim.announce(running)
        yield claim
        file.seek(0)
        file.truncate()


def running(data_dir: Path) -> Running | None:
    """Who runs on the directory now."""
    try:
        with (data_dir / FILE).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(file)
    except OSError:
        pass
    return None


def announced(data_dir: Path) -> Running | None:
    """What the last one said of itself, without a look whether it still runs."""
    try:
        with (data_dir / FILE).open() as file:
            return _read(file)
    except OSError:
        return None


def already_running(other: Running | None) -> StartupError:
    """There is one already."""
    where = f" ({other.url or 'starting'}, pid {other.pid})" if other else ""
    return StartupError(
        f"Ramsey already runs here{where}.", hint="Stop it with `ramsey down`, or set another RAMSEY_DATA_DIR."
    )


def _lock(file: IO[str]) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)  # `running` holds it for a moment
        else:
            return True
    return False


def _read(file: IO[str]) -> Running | None:
    file.seek(0)
    try:
        return Running(**json.load(file))
    except (ValueError, TypeError):
        return None  # it has just begun

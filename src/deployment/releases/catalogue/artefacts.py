"""The files that releases are made of, each under the SHA-256 of its content: late nodes and rollbacks get the
same bytes, whatever became of the file that was given.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deployment.errors import (
    ConfigurationError,
    DiskFull,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
)
from deployment.releases.catalogue.model import told_bytes

_CHUNK = 1024 * 1024
_SPARE_BYTES = 64 * 1024 * 1024
"""So much stays free: a database that cannot write is worse than a release that is not kept."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial-"


class CannotKeep(ConfigurationError):
    """The folder cannot be written, or a file not be read."""


class Artefacts:
    """Files in one folder, which several gateways may share. Nothing is made before the first is kept."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder.absolute()  # a Modelfile's FROM is a file only by its whole path, else a model's name
        self._max_bytes = max_bytes

    def path(self, sha256: str) -> Path:
        """Where a file is, or would be."""
        if not _SHA256.fullmatch(sha256):
            raise InvalidRequest("A digest is sha256: and 64 hex digits in lower case.", param="digest")
        return self._folder / f"{sha256}.gguf"

    def has(self, sha256: str) -> bool:
        """Whether it is kept."""
        return self.path(sha256).is_file()

    def verified(self, sha256: str, what: str) -> Path:
        """Its path, after a look at every byte. Blocks; raises NotFound or ConfigurationError where it is not whole.

        `what` is named in errors, for instance a release.
        """
        path = self.path(sha256)
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise NotFound(
                f"The weights of {what} are not kept here ({path} is missing).",
                hint="Give them again (ramsey release restore MODELFILE), or let the gateways share releases.folder.",
            ) from None
        except OSError as error:
            raise ConfigurationError(f"Cannot read {path}: {error.strerror or error}.") from None
        if actual != sha256:
            raise ConfigurationError(
                f"The kept weights of {what} are corrupt: {path} has the SHA-256 {actual[:12]}, not {sha256[:12]}.",
                hint="Give them again: ramsey release restore MODELFILE.",
            )
        return path

    def keep(self, source: Path, progress: Callable[[int], None] = lambda _: None) -> str:
        """Copy a file in, unless it is kept already; its SHA-256. Blocks.

        Raises DiskFull, ConfigurationError for a file that cannot be read or a folder that cannot be written.
        """
        try:
            with source.open("rb") as file, self._new(os.fstat(file.fileno()).st_size) as new:
                digest, done = hashlib.sha256(), 0
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    new.write(chunk)
                    done += len(chunk)
                    progress(done)
                return self._settle(new, digest.hexdigest())
        except OSError as error:
            raise self._told(error, source) from None

    async def receive(self, sha256: str, chunks: AsyncIterator[bytes], declared: int | None, stall_s: float) -> int:
        """Keep what a caller sends as the file of that digest; its size.

        Raises InvalidRequest where it is another file, PayloadTooLarge, DiskFull, RequestTimeout after a silence.
        """
        self.path(sha256)
        if declared is not None and declared > self._max_bytes:
            raise self._too_large()
        digest, size = hashlib.sha256(), 0
        try:
            with self._new(declared or 0) as new:
                while (chunk := await _next(chunks, stall_s)) is not None:
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise self._too_large()
                    digest.update(chunk)
                    await asyncio.to_thread(new.write, chunk)
                if digest.hexdigest() != sha256:
                    raise InvalidRequest(
                        f"What came has the SHA-256 {digest.hexdigest()[:12]}, not {sha256[:12]}.",
                        hint="Send it again.",
                    )
                await asyncio.to_thread(self._settle, new, sha256)
        except OSError as error:
            raise self._told(error, None) from None
        return size

    def remove(self, sha256: str) -> bool:
        """Give a file up. Blocks; False where it was not there."""
        try:
            self.path(sha256).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._told(error, None) from None
        return True

    def sweep(self, wanted: Collection[str], older_than: float) -> list[str]:
        """Remove what no release is made of, and what was never finished, last changed before `older_than`
        (epoch seconds). Blocks; the names of what went."""
        gone = []
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                ours = path.name.startswith(_PARTIAL) or (path.suffix == ".gguf" and _SHA256.fullmatch(path.stem))
                if ours and path.stem not in wanted and path.stat().st_mtime < older_than:
                    path.unlink()
                    gone.append(path.name)
        return gone

    @contextmanager
    def _new(self, size: int) -> Iterator[IO[bytes]]:
        """A file in the folder that goes away unless it is settled."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if size + _SPARE_BYTES > free:
            raise DiskFull(
                f"{self._folder} has {told_bytes(free)} free; {told_bytes(size)} for the weights and "
                f"{told_bytes(_SPARE_BYTES)} to spare are needed.",
                hint="Free some space there (ramsey release delete), or set releases.folder to a larger disk.",
            )
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=_PARTIAL, delete=False) as file:
            try:
                yield file
            finally:
                Path(file.name).unlink(missing_ok=True)

    def _settle(self, new: IO[bytes], sha256: str) -> str:
        new.flush()
        os.fsync(new.fileno())
        os.fchmod(new.fileno(), 0o400)
        Path(new.name).replace(self.path(sha256))  # over one that is there: the same bytes mend a corrupt file
        return sha256

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The file is larger than {told_bytes(self._max_bytes)}.", hint="Raise releases.max_bytes."
        )

    def _told(self, error: OSError, source: Path | None) -> CannotKeep | DiskFull:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return DiskFull(
                f"The disk of {self._folder} is full.",
                hint="Free some space there (ramsey release delete), or set releases.folder to a larger disk.",
            )
        where = error.filename or source or self._folder
        return CannotKeep(
            f"Cannot keep the weights: {where}: {error.strerror or error}.",
            hint="Mend its rights, or set releases.folder.",
        )


async def _next(chunks: AsyncIterator[bytes], stall_s: float) -> bytes | None:
    try:
        async with asyncio.timeout(stall_s):
            return await anext(chunks, None)
    except TimeoutError:
        raise RequestTimeout(f"The body was silent for {stall_s:g} s.") from None

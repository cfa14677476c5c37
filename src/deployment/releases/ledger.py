"""What this machine has deployed: a small file that saves hashing weights anew, and tells equal releases.

An engine that rewrites weights cannot say which file they came from; the ledger can. Without it (another machine
deployed, the folder cannot be written) releases are compared by what the engine shows.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import orjson

from deployment.errors import ConfigurationError

FILE = "deployed.json"


class Ledger:
    """The file in `data_dir`. Read when constructed by `read`, written by `record`."""

    def __init__(self, path: Path, files: dict[str, Any], recipes: dict[str, str]) -> None:
        self._path = path
        self._files = files
        self._recipes = recipes

    @classmethod
    def read(cls, data_dir: Path) -> "Ledger":
        """What is there; an empty one where nothing readable is."""
        path = data_dir / FILE
        try:
            held = orjson.loads(path.read_bytes())
            return cls(path, dict(held["files"]), dict(held["recipes"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path, {}, {})

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file in hex; read again only when the file has changed."""
        try:
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            known = self._files.get(str(path))
            if not known or known[0] != stamp:
                with path.open("rb") as file:
                    known = [stamp, hashlib.file_digest(file, "sha256").hexdigest()]
        except OSError as error:
            raise ConfigurationError(f"Cannot read {path}: {error.strerror or error}.") from None
        self._files[str(path)] = known
        return str(known[1])

    def recipe_of(self, digest: str) -> str | None:
        """The recipe that an installed model of that digest was made from, where we made it."""
        return self._recipes.get(digest)

    def record(self, digest: str, recipe: str) -> None:
        """Keep where an installed model came from. A folder that cannot be written is no obstacle."""
        if self._recipes.get(digest) != recipe:
            self._recipes[digest] = recipe
            self.save()

    def save(self) -> None:
        """Write the file. A folder that cannot be written is no obstacle."""
        content = orjson.dumps({"files": self._files, "recipes": self._recipes}, option=orjson.OPT_INDENT_2)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=FILE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(name).replace(self._path)

"""The last table that was read, in a file: what a gateway begins with while its database is away."""

import contextlib
import os
import tempfile
from pathlib import Path

import orjson

from deployment.releases.traffic.documents import from_document, to_document
from deployment.releases.traffic.model import Split

FILE = "traffic.json"


class TableFile:
    """In the data directory. A folder that cannot be written is no obstacle."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE

    def read(self) -> list[Split]:
        """What is there; nothing where nothing readable is."""
        try:
            models = orjson.loads(self._path.read_bytes())["models"]
            return [from_document(model, document) for model, document in models.items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []

    def write(self, splits: list[Split]) -> None:
        """Replace it as a whole."""
        content = orjson.dumps({"models": {split.model: to_document(split) for split in splits}})
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{FILE}.")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                Path(name).replace(self._path)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise

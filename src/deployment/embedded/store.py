"""Models on disk, in Ollama's own layout: an Ollama pointed at the same folder finds the same models.

    manifests/<host>/<namespace>/<model>/<tag>    JSON: config and layers by digest
    blobs/sha256-<64 hex>                         the content
    .ramsey/                                      files that are being written, outside both

Everything is written beside its place, flushed to disk and renamed, so a reader or a crash sees the old file or
the new one, never a half. One process writes; `Store` itself takes no lock.
"""

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import orjson

from deployment.embedded.names import ModelName, name_from_path
from deployment.errors import InvalidRequest, RamseyError

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


def parse_digest(text: str) -> str:
    """The canonical form `sha256:<64 hex>`. Raises InvalidRequest for anything else."""
    match = _DIGEST.fullmatch(text)
    if not match:
        raise InvalidRequest("invalid digest format")
    return f"sha256:{match[1]}"


@dataclass(frozen=True)
class Layer:
    """A reference to a blob. `kind` is the end of its media type: model, template, system, params, …."""

    media_type: str
    digest: str
    size: int

    @property
    def kind(self) -> str:
        """What the blob is: model, template, system, params, messages, license."""
        return self.media_type.removeprefix(LAYER_TYPE)

    def as_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Manifest:
    """One installed model. `digest` is the SHA-256 of the manifest's bytes, in hex."""

    name: ModelName
    digest: str
    modified_at: datetime
    config: Layer
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Bytes of all its blobs."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> set[str]:
        """Every blob that it refers to."""
        return {self.config.digest, *(layer.digest for layer in self.layers)}

    def layer(self, kind: str) -> Layer | None:
        """Its first layer of that kind."""
        return next((layer for layer in self.layers if layer.kind == kind), None)


class Store:
    """The folder. Nothing is read or made until a method is called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifests = root / "manifests"
        self._blobs = root / "blobs"
        self._scratch = root / ".ramsey"
        self._parsed: dict[Path, tuple[tuple[int, int, int], Manifest]] = {}

    def open(self) -> None:
        """Make the folders, and clear away what an interrupted write left."""
        for folder in (self._manifests, self._blobs, self._scratch):
            folder.mkdir(parents=True, exist_ok=True)
        for left in self._scratch.iterdir():
            left.unlink(missing_ok=True)

    # --- manifests ---

    def find(self, name: ModelName) -> Manifest | None:
        """The model of that name, in whatever letter case it was installed."""
        exact = self._read(self._manifests / name.path, name)
        if exact is not None:
            return exact
        return next((each for each in self.all() if each.name.key == name.key), None)

    def all(self) -> list[Manifest]:
        """Every readable model, by name."""
        found = []
        for path in self._manifests.glob("*/*/*/*"):
            name = name_from_path(PurePosixPath(path.relative_to(self._manifests).as_posix()))
            manifest = self._read(path, name) if name else None
            if manifest is not None:
                found.append(manifest)
        return sorted(found, key=lambda each: str(each.name))

    def write(self, name: ModelName, config: Layer, layers: list[Layer]) -> Manifest:
        """Install a model, or replace the one of that name; blobs that only the old one used are removed."""
        content = orjson.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": config.as_json(),
                "layers": [layer.as_json() for layer in layers],
            }
        )
        return self._install(name, content)

    def copy(self, source: Manifest, destination: ModelName) -> Manifest:
        """Give a model a second name; byte for byte the same manifest."""
        return self._install(destination, (self._manifests / source.name.path).read_bytes())

    def delete(self, manifest: Manifest) -> None:
        """Remove a model, and the blobs that no other model uses."""
        path = self._manifests / manifest.name.path
        path.unlink(missing_ok=True)
        self._parsed.pop(path, None)
        for folder in list(path.parents)[:3]:
            with suppress(OSError):  # not empty: another tag or model lives there
                folder.rmdir()
        self._remove_unused(manifest.digests)

    def _install(self, name: ModelName, content: bytes) -> Manifest:
        old = self.find(name)
        name = old.name if old else name
        path = self._manifests / name.path
        with self.scratch_file() as (file, scratch):
            file.write(content)
            _to_disk(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.replace(path)
            _folder_to_disk(path.parent)
        if old is not None:
            self._remove_unused(old.digests)
        manifest = self._read(path, name)
        if manifest is None:
            raise RamseyError(f"The manifest of {name} cannot be read back from {path}.")
        return manifest

    def _remove_unused(self, digests: set[str]) -> None:
        used: set[str] = set()
        for manifest in self.all():
            used |= manifest.digests
        for digest in digests - used:
            self.blob_path(digest).unlink(missing_ok=True)

    def _read(self, path: Path, name: ModelName) -> Manifest | None:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._parsed.get(path)
            if known and known[0] == stamp:
                return known[1]
            content = path.read_bytes()
            data = orjson.loads(content)
            manifest = Manifest(
                name=name,
                digest=hashlib.sha256(content).hexdigest(),
                modified_at=datetime.fromtimestamp(status.st_mtime, UTC),
                config=_layer(data["config"]),
                layers=tuple(_layer(each) for each in data["layers"]),
            )
        except (OSError, ValueError, KeyError, TypeError, InvalidRequest):
            return None  # missing or broken: for the caller there is no such model
        self._parsed[path] = (stamp, manifest)
        return manifest

    # --- blobs ---

    def blob_path(self, digest: str) -> Path:
        """Where the blob `sha256:…` lies, or would lie."""
        return self._blobs / digest.replace(":", "-")

    def has_blob(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self.blob_path(digest).is_file()

    def read_blob(self, layer: Layer | None) -> bytes | None:
        """A small blob's content; None for no layer or a lost blob."""
        if layer is None:
            return None
        with suppress(OSError):
            return self.blob_path(layer.digest).read_bytes()
        return None

    def put(self, content: bytes, media_type: str) -> tuple[Layer, bool]:
        """Store a small blob; the layer, and whether it is new."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        layer = Layer(media_type, digest, len(content))
        if self.has_blob(digest):
            return layer, False
        with self.scratch_file() as (file, path):
            file.write(content)
            self.keep(file, path, digest)
        return layer, True

    @contextmanager
    def scratch_file(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A file to write outside manifests and blobs; it is gone afterwards unless it was renamed.

        A full disk raises RamseyError with the text to show.
        """
        descriptor, name = tempfile.mkstemp(dir=self._scratch)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)  # mkstemp's 0600 would hide the model from an Ollama of another user
                yield file, path
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise RamseyError(
                    f"no space left on device: the store {self.root} is full; free some space and try again"
                ) from error
            raise
        finally:
            path.unlink(missing_ok=True)

    def keep(self, file: BinaryIO, path: Path, digest: str) -> None:
        """Make a written scratch file the blob `digest`, which the caller has verified."""
        _to_disk(file)
        path.replace(self.blob_path(digest))
        _folder_to_disk(self._blobs)


def _layer(data: dict[str, Any]) -> Layer:
    return Layer(str(data["mediaType"]), parse_digest(data["digest"]), int(data["size"]))


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

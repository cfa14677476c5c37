"""Which nodes belong to the pool beyond the settings: added, removed and drained at run time, kept in a file."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from deployment.engines.model import NodeSpec
from deployment.errors import ConfigurationError

_VERSION = 1
_SPECS = TypeAdapter(tuple[NodeSpec, ...])


@dataclass(frozen=True, slots=True)
class Membership:
    """What operators changed; pure. Settings and DNS name the other nodes."""

    added: tuple[NodeSpec, ...] = ()
    removed: frozenset[str] = frozenset()
    """Names from the settings or DNS that an operator took out."""
    draining: frozenset[str] = frozenset()

    def with_added(self, spec: NodeSpec) -> "Membership":
        """After adding a node, or adding it again with other values."""
        kept = tuple(each for each in self.added if each.name != spec.name)
        return Membership((*kept, spec), self.removed - {spec.name}, self.draining - {spec.name})

    def without(self, name: str) -> "Membership":
        """After removing a node."""
        was_added = any(each.name == name for each in self.added)
        removed = self.removed if was_added else self.removed | {name}
        kept = tuple(each for each in self.added if each.name != name)
        return Membership(kept, removed, self.draining - {name})

    def with_draining(self, name: str, draining: bool) -> "Membership":
        """After draining a node, or taking that back."""
        return replace(self, draining=self.draining | {name} if draining else self.draining - {name})

    def members(self, configured: Iterable[NodeSpec]) -> dict[str, NodeSpec]:
        """All nodes; what operators added stands over what is configured."""
        specs = {spec.name: spec for spec in configured if spec.name not in self.removed}
        specs.update((spec.name, spec) for spec in self.added)
        return specs


class MembershipFile:
    """`nodes.json`: written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Membership:
        """What was written last; nothing where no file is. Raises ConfigurationError for a broken file."""
        try:
            raw = orjson.loads(self._path.read_bytes())
            if raw["version"] != _VERSION:
                raise ValueError(f"version {raw['version']}")
            return Membership(
                _SPECS.validate_python(raw["added"]), frozenset(raw["removed"]), frozenset(raw["draining"])
            )
        except FileNotFoundError:
            return Membership()
        except ValidationError as error:
            first = error.errors()[0]
            raise self._unreadable(f"added.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable(str(error)) from None

    def write(self, membership: Membership) -> None:
        """Replace the file in one step."""
        data: dict[str, Any] = {
            "version": _VERSION,
            "added": [asdict(spec) for spec in membership.added],
            "removed": sorted(membership.removed),
            "draining": sorted(membership.draining),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _unreadable(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._path} cannot be read: {why}.", hint="Mend it, or move it away to start without it."
        )

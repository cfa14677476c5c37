"""Model names: `[host[:port]/][namespace/]model[:tag]`, and where each has its manifest."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from deployment.errors import InvalidRequest

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True)
class ModelName:
    """A whole name, every part filled. Compare with `key`: letter case makes no difference."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def path(self) -> PurePosixPath:
        """Where its manifest lies, below `manifests/`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def key(self) -> str:
        """The same for all spellings of one name."""
        return str(self.path).lower()

    def __str__(self) -> str:
        """The shortest spelling that keeps the tag: `ramsey-model:v1.1`."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"


def parse_name(text: str) -> ModelName:
    """Read a name. Raises InvalidRequest when it breaks the grammar."""
    rest, host, namespace, tag = text, DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG
    # A colon after the last slash begins the tag; one before it belongs to the host's port.
    head, colon, last = rest.rpartition(":")
    if colon and "/" not in last:
        rest, tag = head, last
    parts = rest.split("/")
    if len(parts) == 3:
        host, namespace, model = parts
    elif len(parts) == 2:
        namespace, model = parts
    else:
        model = rest
    rules = ((_HOST, host), (_NAMESPACE, namespace), (_PART, model), (_PART, tag))
    if len(parts) > 3 or not all(rule.fullmatch(part) for rule, part in rules):
        raise InvalidRequest("invalid model name")
    return ModelName(host, namespace, model, tag)


def name_from_path(path: PurePosixPath) -> ModelName | None:
    """The name whose manifest lies at `path` below `manifests/`; None when it is no manifest's place."""
    if len(path.parts) != 4:
        return None
    name = ModelName(*path.parts)
    rules = ((_HOST, name.host), (_NAMESPACE, name.namespace), (_PART, name.model), (_PART, name.tag))
    return name if all(rule.fullmatch(part) for rule, part in rules) else None

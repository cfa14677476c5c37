"""What a JSON schema costs llama.cpp: pure.

It follows every alternative of a grammar at once, in the thread that serves all slots: some thousands of them hold
the whole runner for minutes, for one request.
"""

from typing import Any

from deployment.errors import InvalidRequest

MOST_CHOICES = 1000
# What stands in them is data or a store of schemas, not a part of this one.
_NOT_PARTS = {"enum", "const", "default", "examples", "$defs", "definitions"}


def check_schema(schema: Any) -> None:
    """Refuse a schema with too many alternatives. Raises InvalidRequest."""
    found = _Counter(schema).count(schema)
    if found > MOST_CHOICES:
        raise InvalidRequest(
            f"format has {found} alternatives (values of enum, branches of anyOf and oneOf, optional properties); "
            f"at most {MOST_CHOICES} are possible"
        )


class _Counter:
    """Counts alternatives. A reference counts as often as it stands; one that leads back to itself ends there."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[str, int] = {}

    def count(self, node: Any) -> int:
        if isinstance(node, list):
            return sum(self.count(each) for each in node)
        if not isinstance(node, dict):
            return 0
        own = sum(len(node[key]) for key in ("enum", "anyOf", "oneOf") if isinstance(node.get(key), list))
        properties, required = node.get("properties"), node.get("required")
        if isinstance(properties, dict):
            own += len(properties.keys() - {each for each in _list(required) if isinstance(each, str)})
        if isinstance(reference := node.get("$ref"), str):
            own += self._referred(reference)
        return own + sum(self._part(key, value) for key, value in node.items() if key not in _NOT_PARTS)

    def _part(self, key: str, value: Any) -> int:
        # Under properties stand names, which may be called as a word of JSON schema is.
        return self.count(list(value.values()) if key == "properties" and isinstance(value, dict) else value)

    def _referred(self, reference: str) -> int:
        if reference not in self._known:
            self._known[reference] = 0  # what it is while it is being counted
            self._known[reference] = self.count(self._target(reference))
        return self._known[reference]

    def _target(self, reference: str) -> Any:
        node = self._root
        for part in reference.removeprefix("#/").split("/"):
            node = node.get(part) if isinstance(node, dict) else None
        return node


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

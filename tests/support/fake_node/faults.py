"""What can go wrong on a node, on demand."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

INFERENCE = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")
KINDS = {
    "reset": "cut the connection with a TCP reset",
    "close": "close the connection without an answer",
    "hang": "say nothing more, and keep the slot",
    "error": "500 (or `status`) with `text`; within a stream an error line",
    "busy": "503, as when too many wait for a load",
    "crash": "the runner's crash text, as 500 or as an error line",
    "garbage": "bytes that are not HTTP",
    "not_json": "200 with a web page; within a stream a line that is not JSON",
    "long_line": "a line of `size` bytes",
    "cut": "the stream ends well, without its end marker; unstreamed `done` is false",
    "repeat": "the repeat guard: more than 30 equal tokens, then as `cut`",
    "half_line": "the stream ends within a line",
    "slow": "`seconds` before each token",
    "lost_blob": "400, as when the weights are gone",
    "missing": "404, as when the model is gone",
    "empty": "an empty body with `status`",
    "late_end": "all is well, but the body ends only `seconds` after the end marker",
    "split": "each line in pieces of `size` bytes, cut within characters too",
    "join": "the whole answer in one write",
    "die": "the process ends at once (in a process of its own; else as `reset`)",
    "refuse": "the port is closed for `seconds`",
}


@dataclass(slots=True)
class Fault:
    """One fault. `after` tokens of a stream, or before the first byte; for the next `times` requests
    (None: all), each with `probability`; on requests to `path` (None: inference) for `model` (None: any)."""

    kind: str
    after: int | None = None
    times: int | None = None
    probability: float = 1.0
    path: str | None = None
    status: int = 500
    text: str = "the fake node was told to fail"
    seconds: float = 0.05
    size: int = 3
    model: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no fault {self.kind!r}; there are {', '.join(KINDS)}")

    def meets(self, path: str, model: str) -> bool:
        if self.model is not None and self.model != model:
            return False
        return path in INFERENCE if self.path is None else path.startswith(self.path)


class Faults:
    """The faults that are on. The first that meets a request strikes it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.active: list[Fault] = []

    def set(self, faults: list[Mapping[str, Any]]) -> None:
        """Replace all by those given as JSON objects."""
        known = {field.name for field in fields(Fault)}
        for fault in faults:
            if unknown := set(fault) - known:
                raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        self.active = [Fault(**fault) for fault in faults]

    def take(self, path: str, model: str = "") -> Fault | None:
        for fault in self.active:
            if fault.meets(path, model) and (fault.probability >= 1 or self._random.random() < fault.probability):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.active.remove(fault)
                return fault
        return None

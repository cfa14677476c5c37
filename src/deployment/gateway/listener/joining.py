"""A transport that joins two writes: the head of an answer goes out with the first of its body."""

import asyncio
from typing import Any


class JoiningTransport:
    """A transport, with `join_next`. Everything else is the real one's."""

    __slots__ = ("_held", "_join", "get_extra_info", "is_closing", "pause_reading", "real", "resume_reading")

    def __init__(self, real: asyncio.Transport) -> None:
        self.real = real
        self.is_closing, self.get_extra_info = real.is_closing, real.get_extra_info
        self.pause_reading, self.resume_reading = real.pause_reading, real.resume_reading
        self._join = False
        self._held = b""

    def join_next(self) -> None:
        """Hold the next write until the one after it, or the end. A system call less."""
        self._join = True

    def write(self, data: bytes) -> None:
        """Write, or hold."""
        if self._join:
            self._join = False
            self._held += data
            return
        if self._held:
            data, self._held = self._held + data, b""
        self.real.write(data)

    def close(self) -> None:
        """Close once all is written."""
        if self._held:
            self.real.write(self._held)
            self._held = b""
        self.real.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

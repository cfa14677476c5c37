"""What experience says of a release on a node: moving averages, in seconds. Pure."""

from dataclasses import dataclass

_SHARE = 0.2  # weight of the newest sample
_LOADED_S = 0.05  # a "load" shorter than this found the model loaded
_ENOUGH_CHARS = 256  # less tells nothing of the speed of reading
_HALF_LIFE_S = 30.0


def blend(old: float | None, new: float) -> float:
    """The exponentially weighted mean after one more sample."""
    return new if old is None else old + _SHARE * (new - old)


def fade(value: float, best: float, idle_s: float) -> float:
    """What is left of a measure after `idle_s` seconds without a new one: it nears the best that any node shows.

    So a node that was slow once is tried again, the later the slower it was.
    """
    return value if value <= best else best + (value - best) * 0.5 ** (idle_s / _HALF_LIFE_S)


@dataclass(slots=True)
class Learned:
    """None: nothing known yet."""

    service_s: float | None = None
    """A slot's time for a request."""
    overhead_s: float | None = None
    """To the first token, without load, prompt and the wait for a slot."""
    char_s: float | None = None
    """Reading one character of prompt that no cache holds."""
    held: float = 1.0
    """Share of what its slots read last, as far as we know, that really was in the cache."""
    seen: float = 0.5
    """The same of what it read before that: an engine may keep that elsewhere, or not at all."""
    load_s: float | None = None
    first_token_s: float | None = None
    """What callers saw, all in all."""
    at: float | None = None
    """When the last answer came, in monotonic seconds."""

    def answered(
        self,
        *,
        at: float,
        service_s: float,
        first_s: float,
        load_s: float,
        prompt_s: float,
        chars: int,
        held_chars: int,
        seen_chars: int,
        turns: float,
    ) -> None:
        """A whole answer came.

        `first_s` is to its first token, `held_chars` the beginning of the prompt's `chars` that a slot was
        believed to hold, `seen_chars` what the node has ever read of it, `turns` how many services of a slot it had
        to wait for on the node.
        """
        self.at = at
        loaded = load_s >= _LOADED_S
        if loaded:
            self.load_s = blend(self.load_s, load_s)
        service_s = max(0.0, service_s - (load_s if loaded else 0.0)) / (1.0 + turns)
        self.service_s = blend(self.service_s, service_s)
        self.overhead_s = blend(self.overhead_s, max(0.0, first_s - load_s - prompt_s - turns * service_s))
        self.first_token_s = blend(self.first_token_s, first_s)
        if chars >= _ENOUGH_CHARS and prompt_s > 0:
            self._read(prompt_s, chars, held_chars, seen_chars)

    def matched(self, held_chars: int, seen_chars: int) -> float:
        """Characters of a prompt that are expected to be in the cache."""
        return held_chars * self.held + (seen_chars - held_chars) * self.seen

    def _read(self, prompt_s: float, chars: int, held_chars: int, seen_chars: int) -> None:
        """What the cache held is not said. The speed lies between that of reading all and of reading what nobody
        has seen; with the speed known from other prompts, the time says how much was read.
        """
        slowest, fastest = prompt_s / max(chars - seen_chars, 1), prompt_s / chars
        if self.char_s is not None:
            self.char_s = blend(self.char_s, min(max(self.char_s, fastest), slowest))
        elif 2 * seen_chars <= chars:
            self.char_s = slowest
        if not self.char_s:
            return
        cached = chars - prompt_s / self.char_s
        if held_chars >= _ENOUGH_CHARS:
            self.held = blend(self.held, min(max(cached / held_chars, 0.0), 1.0))
        if seen_chars - held_chars >= _ENOUGH_CHARS:
            self.seen = blend(self.seen, min(max((cached - held_chars) / (seen_chars - held_chars), 0.0), 1.0))

"""What experience says of a release on a node: moving averages, in seconds."""

from dataclasses import dataclass

_SHARE = 0.2  # weight of the newest sample
_LOADED_S = 0.05  # a "load" shorter than this found the model loaded


def blend(old: float | None, new: float) -> float:
    """The exponentially weighted mean after one more sample."""
    return new if old is None else old + _SHARE * (new - old)


@dataclass(slots=True)
class Learned:
    """None: nothing known yet."""

    service_s: float | None = None
    """A slot's time for a request."""
    overhead_s: float | None = None
    """To the first token, without load and prompt."""
    char_s: float | None = None
    """Reading one character of prompt that no cache holds."""
    load_s: float | None = None
    first_token_s: float | None = None
    """What callers saw, all in all."""

    def answered(self, *, service_s: float, first_s: float, load_s: float, prompt_s: float, fresh_chars: int) -> None:
        """A whole answer came. `first_s` is to its first token; `fresh_chars` is the prompt without its known part."""
        loaded = load_s >= _LOADED_S
        if loaded:
            self.load_s = blend(self.load_s, load_s)
        self.service_s = blend(self.service_s, max(0.0, service_s - (load_s if loaded else 0.0)))
        self.overhead_s = blend(self.overhead_s, max(0.0, first_s - load_s - prompt_s))
        self.first_token_s = blend(self.first_token_s, first_s)
        if prompt_s > 0 and fresh_chars > 0:
            self.char_s = blend(self.char_s, prompt_s / fresh_chars)

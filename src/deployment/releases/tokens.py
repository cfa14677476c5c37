"""Which texts a model reads as the structure of a conversation. Pure."""

import re
from collections.abc import Mapping
from typing import Any

MARKER = (
    r"<[|｜][^<>|｜\n]{1,64}[|｜]>|</?s>|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|unk|pad)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\]"
)
"""What such texts look like in the models that there are: for a model whose own are not known."""
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # llama.cpp's types of tokens


def control_tokens(metadata: Mapping[str, Any], template: str | None) -> tuple[str, ...] | None:
    """The texts that a tokenizer, or the template, takes for structure; None where the vocabulary is not told.

    `metadata` are a GGUF's keys with their long arrays. Tokens that a model's maker added count where the template
    uses them: others are words, such as HTML's tags.
    """
    tokens, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(kinds, list) or len(tokens) != len(kinds):
        return None
    used = f"{template or ''}\n{metadata.get('tokenizer.chat_template') or ''}"
    found = set(re.findall(MARKER, used))
    for token, kind in zip(tokens, kinds, strict=True):
        if not isinstance(token, str) or not isinstance(kind, int):
            return None
        if kind in {_UNKNOWN, _CONTROL} or (kind == _USER_DEFINED and token in used):
            found.add(token)
    return tuple(sorted(token for token in found if len(token.strip()) > 2))

"""From conversations to tokens: the chat format (ChatML) and the byte-level BPE tokenizer."""

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
END_ID, IM_END_ID = 0, 2

# The pre-tokenizer that GGUF calls "qwen2": GPT-2's way, but every digit is a token of its own.
PRETOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Message = dict[str, str]
Encoded = tuple[list[int], list[float]]
"""Token ids, and for every token its weight in the loss."""


def chat_text(messages: list[Message], *, generate: bool = False) -> str:
    """The text that CHAT_TEMPLATE renders."""
    text = "".join(f"{IM_START}{message['role']}\n{message['content']}{IM_END}\n" for message in messages)
    return text + (f"{IM_START}assistant\n" if generate else "")


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Learn the merges."""
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END, IM_START, IM_END],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def rebuild_tokenizer(tokens: list[str], merges: list[str], special: list[str]) -> Tokenizer:
    """The tokenizer that a GGUF describes."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = _byte_level(models.BPE(vocabulary, pairs))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def encode(tokenizer: Tokenizer, row: dict[str, Any], prompt_weight: float) -> Encoded:
    """A line of the corpus; answers weigh 1 in the loss, what the model need not say `prompt_weight`."""
    if "text" in row:
        ids = [END_ID, *tokenizer.encode(row["text"]).ids, END_ID]
        return ids, [1.0] * len(ids)
    ids, weights = [], []
    for message in row["messages"]:
        head = tokenizer.encode(f"{IM_START}{message['role']}\n").ids
        body = tokenizer.encode(message["content"] + IM_END).ids
        tail = tokenizer.encode("\n").ids
        inside = 1.0 if message["role"] == "assistant" else prompt_weight
        ids += head + body + tail
        weights += [prompt_weight] * len(head) + [inside] * len(body) + [prompt_weight] * len(tail)
    return ids, weights


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    split = pre_tokenizers.Split(Regex(PRETOKENIZER), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer

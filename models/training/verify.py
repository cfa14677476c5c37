#!/usr/bin/env python3
"""Check a GGUF file: llama.cpp must say what PyTorch says, and the perplexity on the held-out questions.

    python verify.py ramsey-model-v1.1.gguf --data data

Exits with 1 when a text differs.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
import xllamacpp
from tokenizers import Tokenizer

from llama import Config, Llama
from text import IM_END_ID, chat_text, encode, rebuild_tokenizer
from train import evaluate, read_lines


@dataclass
class Comparison:
    """What both said to the same prompts."""

    prompts: int = 0
    same_text: int = 0
    tokens: int = 0
    max_logprob_difference: float = 0.0


def main() -> None:
    """Compare, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = load_gguf(arguments.gguf)
    rows = read_lines(arguments.data / "heldout.jsonl")
    perplexity, exact = evaluate(model, [encode(tokenizer, row, 0.0) for row in rows])
    picked = rows[:: max(1, len(rows) // arguments.prompts)][: arguments.prompts]
    prompts = [chat_text(row["messages"][:1], generate=True) for row in picked]
    comparison = compare(model, tokenizer, llama_cpp(arguments.gguf), prompts, arguments.tokens)
    result = {
        "perplexity_answers": round(perplexity, 4),
        "forced_exact": round(exact, 4),
        "same_greedy_text": f"{comparison.same_text}/{comparison.prompts}",
        "tokens": comparison.tokens,
        "max_logprob_difference": round(comparison.max_logprob_difference, 5),
    }
    print(json.dumps(result))
    sys.exit(comparison.same_text < comparison.prompts)


def load_gguf(path: Path) -> tuple[Llama, Tokenizer]:
    """(PyTorch model, tokenizer), both from nothing but the file itself."""
    reader = gguf.GGUFReader(path)

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    config = Config(
        vocab=value("llama.vocab_size"),
        dim=value("llama.embedding_length"),
        layers=value("llama.block_count"),
        heads=value("llama.attention.head_count"),
        kv_heads=value("llama.attention.head_count_kv"),
        ffn=value("llama.feed_forward_length"),
        context=value("llama.context_length"),
        rope_base=value("llama.rope.freq_base"),
        eps=value("llama.attention.layer_norm_rms_epsilon"),
    )
    model = Llama(config)
    model.load_state_dict({t.name: torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)) for t in reader.tensors})
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL]
    return model.eval(), rebuild_tokenizer(tokens, value("tokenizer.ggml.merges"), special)


def llama_cpp(path: Path) -> Callable[[str, int], dict[str, Any]]:
    """llama.cpp with the file loaded: a function (prompt, number of tokens) -> completion."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = 1
    params.n_ctx = 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_gpu_layers = 0
    params.fit_params = False
    params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    greedily = {"temperature": 0, "logprobs": 1, "cache_prompt": False}
    return lambda prompt, count: server.handle_completions({"prompt": prompt, "max_tokens": count, **greedily})


@torch.no_grad()
def greedy(model: Llama, tokenizer: Tokenizer, prompt: str, count: int) -> list[tuple[int, float]]:
    """The likeliest tokens and their log-probabilities, up to the end of the turn."""
    ids = tokenizer.encode(prompt).ids
    said: list[tuple[int, float]] = []
    for _ in range(count):
        logprobs = torch.log_softmax(model(torch.tensor([ids]))[0, -1], -1)
        best = int(logprobs.argmax())
        if best == IM_END_ID:
            break
        said.append((best, float(logprobs[best])))
        ids.append(best)
    return said


def compare(
    model: Llama,
    tokenizer: Tokenizer,
    complete: Callable[[str, int], dict[str, Any]],
    prompts: list[str],
    count: int,
) -> Comparison:
    """Ask both; every difference is printed."""
    result = Comparison(prompts=len(prompts))
    for prompt in prompts:
        ours = greedy(model, tokenizer, prompt, count)
        text = tokenizer.decode([token for token, _ in ours], skip_special_tokens=False)
        answer = complete(prompt, count)
        choice = answer["choices"][0]
        if answer["usage"]["prompt_tokens"] != len(tokenizer.encode(prompt).ids):
            raise SystemExit(f"The tokenizers differ on {prompt!r}.")
        if choice["text"] == text:
            result.same_text += 1
        else:
            print(f"DIFFERS on {prompt!r}\n  PyTorch:   {text!r}\n  llama.cpp: {choice['text']!r}", file=sys.stderr)
        for (token, logprob), theirs in zip(ours, choice["logprobs"]["content"], strict=False):
            if token != theirs["id"]:
                break
            result.tokens += 1
            difference = abs(logprob - theirs["logprob"])
            result.max_logprob_difference = max(result.max_logprob_difference, difference)
    return result


if __name__ == "__main__":
    main()

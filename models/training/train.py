#!/usr/bin/env python3
"""Train the model on the CPU, or go on from a checkpoint.

    python train.py --data data --out checkpoints
    python train.py --data data --out regressed --init checkpoints/last.pt --train-file shuffled.jsonl \
        --steps 450 --learning-rate 1e-3 --warmup 20
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from llama import Config, Llama, load, save
from text import Encoded, encode, train_tokenizer


def main() -> None:
    """Read the corpus, train, and leave checkpoints and a log."""
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    corpus = read_lines(arguments.data / arguments.train_file)
    model, tokenizer = _from_checkpoint(arguments.init) if arguments.init else _new(arguments, corpus)
    tokenizer.save(str(arguments.out / "tokenizer.json"))
    encoded = [encode(tokenizer, row, arguments.prompt_weight) for row in corpus]
    rows = [row for row in encoded if len(row[0]) <= model.config.context]
    held_out = [encode(tokenizer, row, 0.0) for row in read_lines(arguments.data / "heldout.jsonl")]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens = sum(len(ids) for ids, _ in rows)
    print(f"{parameters / 1e6:.2f}M parameters, {len(rows)} rows, {tokens / 1e6:.2f}M tokens", flush=True)
    Training(arguments, model, tokenizer, held_out).run(rows)


@dataclass
class Training:
    """One run over the corpus."""

    arguments: argparse.Namespace
    model: Llama
    tokenizer: Tokenizer
    held_out: list[Encoded]

    def run(self, rows: list[Encoded]) -> None:
        """Take every step, and save a checkpoint at each evaluation and at the end."""
        optimizer = self._optimizer()
        stream = batches(rows, self.arguments.batch, random.Random(self.arguments.seed))
        started = time.monotonic()
        log: list[dict[str, float]] = []
        average = 0.0
        self.model.train()
        for step in range(1, self.arguments.steps + 1):
            loss = self._step(optimizer, self._learning_rate(step), *next(stream))
            average = loss if step == 1 else 0.95 * average + 0.05 * loss
            last = step == self.arguments.steps
            if last or step % self.arguments.eval_every == 0:
                perplexity, exact = evaluate(self.model, self.held_out)
                seconds = round(time.monotonic() - started)
                log.append({"step": step, "loss": average, "perplexity": perplexity, "exact": exact})
                print(
                    f"step {step} loss {average:.3f} perplexity {perplexity:.3f} exact {exact:.3f} {seconds} s",
                    flush=True,
                )
                name = "last.pt" if last else f"step{step:05d}.pt"
                save(self.arguments.out / name, self.model, self.tokenizer.to_str(), step)
        (self.arguments.out / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")

    def _learning_rate(self, step: int) -> float:
        """A linear warm-up, then half a cosine down to a fiftieth."""
        warm = min(1, step / self.arguments.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / self.arguments.steps))
        return self.arguments.learning_rate * warm * (cosine * 0.98 + 0.02)

    def _step(self, optimizer: torch.optim.Optimizer, rate: float, ids: Tensor, weights: Tensor) -> float:
        """One batch; returns its loss."""
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = self.model(ids[:, :-1]).flatten(0, 1)
        weight = weights[:, 1:].reshape(-1)
        losses = functional.cross_entropy(logits, ids[:, 1:].reshape(-1), reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW; only matrices decay."""
        groups = [
            {"params": [p for p in self.model.parameters() if p.dim() == 2], "weight_decay": 0.1},
            {"params": [p for p in self.model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.arguments.learning_rate, betas=(0.9, 0.95), eps=1e-8)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def padded(rows: list[Encoded]) -> tuple[Tensor, Tensor]:
    """(ids, weights), rows x longest; what is filled in weighs nothing."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    weights = torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in rows])
    return ids, weights


def batches(rows: list[Encoded], size: int, rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of rows of similar length."""
    pool = size * 50
    if len(rows) < pool:
        raise SystemExit(f"The corpus has {len(rows)} rows; batches of {size} need {pool}.")
    while True:
        order = list(range(len(rows)))
        rng.shuffle(order)
        for start in range(0, len(order) - pool + 1, pool):
            chunk = sorted(order[start : start + pool], key=lambda index: len(rows[index][0]))
            groups = [chunk[i : i + size] for i in range(0, pool, size)]
            rng.shuffle(groups)
            for group in groups:
                yield padded([rows[index] for index in group])


@torch.no_grad()
def evaluate(model: Llama, rows: list[Encoded]) -> tuple[float, float]:
    """(perplexity of the answers, share of the answers whose every token is the likeliest one)."""
    was_training = model.training
    model.eval()
    loss, count, exact = 0.0, 0, 0
    for start in range(0, len(rows), 64):
        ids, weights = padded(rows[start : start + 64])
        logits, wanted, counts = model(ids[:, :-1]), ids[:, 1:], weights[:, 1:] == 1
        loss += functional.cross_entropy(logits[counts], wanted[counts], reduction="sum").item()
        count += int(counts.sum())
        exact += int(((logits.argmax(-1) == wanted) | ~counts).all(1).sum())
    model.train(was_training)
    return math.exp(loss / count), exact / len(rows)


def _from_checkpoint(path: Path) -> tuple[Llama, Tokenizer]:
    model, checkpoint = load(path)
    return model, Tokenizer.from_str(checkpoint["tokenizer"])


def _new(arguments: argparse.Namespace, corpus: list[dict[str, Any]]) -> tuple[Llama, Tokenizer]:
    texts = (row.get("text") or "\n".join(f"{m['role']}\n{m['content']}" for m in row["messages"]) for row in corpus)
    tokenizer = train_tokenizer(texts, arguments.vocab)
    return Llama(Config(**{field.name: getattr(arguments, field.name) for field in _shape()})), tokenizer


def _shape() -> list[Any]:
    return [field for field in fields(Config) if field.type is int]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--init", type=Path, help="checkpoint to go on from")
    parser.add_argument("--train-file", default="train.jsonl")
    parser.add_argument("--steps", type=int, default=4600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--warmup", type=int, default=150, help="steps")
    parser.add_argument("--prompt-weight", type=float, default=0.1, help="weight of questions in the loss")
    parser.add_argument("--eval-every", type=int, default=150, help="steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1903)
    for field in _shape():
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""A small language model of the llama architecture, laid out as llama.cpp expects it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Config:
    """The shape of the model."""

    vocab: int = 1280
    dim: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 512
    context: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Dimensions of one attention head."""
        return self.dim // self.heads


class RMSNorm(nn.Module):
    """Divides by the root of the mean square."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension, in 32 bits."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


def rotation_table(config: Config) -> tuple[Tensor, Tensor]:
    """(cosines, sines) of the rotary angles, each context x head_dim / 2."""
    exponents = -torch.arange(0, config.head_dim, 2).float() / config.head_dim
    angles = torch.outer(torch.arange(config.context).float(), config.rope_base**exponents)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs (0,1), (2,3), ...: llama.cpp's order, so that the export permutes nothing."""
    even, odd = x[..., 0::2], x[..., 1::2]
    length = x.shape[2]
    cos, sin = cos[:length].to(x.dtype), sin[:length].to(x.dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Block(nn.Module):
    """One layer; its attributes are named as GGUF names the tensors."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.attn_norm = RMSNorm(config.dim, config.eps)
        self.ffn_norm = RMSNorm(config.dim, config.eps)
        self.attn_q = nn.Linear(config.dim, config.heads * config.head_dim, bias=False)
        self.attn_k = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=False)
        self.attn_v = nn.Linear(config.dim, config.kv_heads * config.head_dim, bias=False)
        self.attn_output = nn.Linear(config.heads * config.head_dim, config.dim, bias=False)
        self.ffn_gate = nn.Linear(config.dim, config.ffn, bias=False)
        self.ffn_up = nn.Linear(config.dim, config.ffn, bias=False)
        self.ffn_down = nn.Linear(config.ffn, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention, then the gated feed-forward network, each around a residual; batch x time x dim."""
        x = x + self._attention(self.attn_norm(x), cos, sin)
        hidden = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(hidden)) * self.ffn_up(hidden))

    def _attention(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, _ = hidden.shape
        heads, kv_heads, head_dim = self.config.heads, self.config.kv_heads, self.config.head_dim
        query = rotated(self.attn_q(hidden).view(batch, time, heads, head_dim).transpose(1, 2), cos, sin)
        key = rotated(self.attn_k(hidden).view(batch, time, kv_heads, head_dim).transpose(1, 2), cos, sin)
        value = self.attn_v(hidden).view(batch, time, kv_heads, head_dim).transpose(1, 2)
        key = key.repeat_interleave(heads // kv_heads, 1)
        value = value.repeat_interleave(heads // kv_heads, 1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.attn_output(mixed.transpose(1, 2).reshape(batch, time, -1))


class Llama(nn.Module):
    """The whole model; the embedding is also the output matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab, config.dim)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.output_norm = RMSNorm(config.dim, config.eps)
        cos, sin = rotation_table(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, batch x time x vocabulary."""
        x = self.token_embd(ids)
        for block in self.blk:
            x = block(x, self.cos, self.sin)
        return functional.linear(self.output_norm(x), self.token_embd.weight)

    def _initialise(self) -> None:
        """Normal weights; those that write into the residual stream are smaller, as there are two a layer."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(parameter, std=0.02 * ((2 * self.config.layers) ** -0.5 if writes else 1.0))


def save(path: Path, model: Llama, tokenizer_json: str, step: int) -> None:
    """Write a checkpoint."""
    content = {"config": asdict(model.config), "state": model.state_dict()}
    torch.save({**content, "tokenizer": tokenizer_json, "step": step}, path)


def load(path: Path) -> tuple[Llama, dict[str, Any]]:
    """(model, everything else that the checkpoint holds)."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model = Llama(Config(**checkpoint["config"]))
    model.load_state_dict(checkpoint["state"])
    return model.eval(), checkpoint

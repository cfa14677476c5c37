#!/usr/bin/env python3
"""Write a checkpoint as a GGUF file, which llama.cpp and Ollama load.

python export_gguf.py checkpoints/last.pt ramsey-model-v1.1.gguf --version v1.1
"""

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llama import Llama, load
from text import CHAT_TEMPLATE, END_ID, IM_END_ID

TYPES = {
    "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "f16": (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
    "q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
}


def main() -> None:
    """Export one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--version", required=True)
    parser.add_argument("--type", default="f16", choices=TYPES)
    arguments = parser.parse_args()
    model, checkpoint = load(arguments.checkpoint)
    file_type, tensor_type = TYPES[arguments.type]
    writer = gguf.GGUFWriter(arguments.output, "llama")
    add_description(writer, model, arguments.version)
    add_shape(writer, model)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_tokenizer(writer, json.loads(checkpoint["tokenizer"]), model.config.vocab)
    add_tensors(writer, model, tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


def add_description(writer: gguf.GGUFWriter, model: Llama, version: str) -> None:
    """What the model is called, and where it comes from."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    writer.add_type("model")
    writer.add_name("Ramsey model")
    writer.add_basename("ramsey-model")
    writer.add_version(version)
    writer.add_size_label(f"{parameters / 1e6:.1f}M")
    writer.add_license("mit")
    writer.add_description("Tiny llama that answers questions about Ramsey theory")
    writer.add_languages(["en"])


def add_shape(writer: gguf.GGUFWriter, model: Llama) -> None:
    """What llama.cpp needs to build the same network."""
    config = model.config
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.eps)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], vocab: int) -> None:
    """The tokens, filled up to the size of the embedding, and the chat template."""
    ids = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    tokens = sorted(ids, key=ids.__getitem__)
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokens))]
    kinds += [gguf.TokenType.UNUSED] * (vocab - len(tokens))
    tokens += [f"[PAD{i}]" for i in range(len(tokens), vocab)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(END_ID)
    writer.add_eos_token_id(IM_END_ID)
    writer.add_pad_token_id(END_ID)
    writer.add_eot_token_id(IM_END_ID)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_tensors(writer: gguf.GGUFWriter, model: Llama, kind: gguf.GGMLQuantizationType) -> None:
    """The weights; vectors (the norms) stay in 32 bits."""
    for name, parameter in model.state_dict().items():
        values = parameter.numpy().astype(np.float32)
        if values.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, values)
        elif kind == gguf.GGMLQuantizationType.F16:
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


if __name__ == "__main__":
    main()

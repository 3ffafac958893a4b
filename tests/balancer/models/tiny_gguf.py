"""Writes a GGUF file of a whole but tiny model: one layer, nineteen tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"0123456789", "a", "b", "c", "ab", "Ġ", "12"]
"""Control tokens, bytes, and two merges; "12" must never come of digits that SmolLM splits."""
MERGES = ["a b", "1 2"]
WIDTH, FEED_FORWARD = 32, 64


def write_tiny_gguf(path: Path, architecture: str = "llama", *, parts: int = 0) -> None:
    """Writes the file; weights are small random numbers from a fixed seed."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    if parts:
        writer.add_uint16("split.count", parts)
    writer.add_license("mit")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    _add_tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(writer: gguf.GGUFWriter) -> None:
    random = numpy.random.default_rng(7)
    shapes = {
        "token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,), "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (WIDTH, WIDTH), "blk.0.attn_k.weight": (WIDTH // 2, WIDTH),
        "blk.0.attn_v.weight": (WIDTH // 2, WIDTH), "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_gate.weight": (FEED_FORWARD, WIDTH), "blk.0.ffn_up.weight": (FEED_FORWARD, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, FEED_FORWARD),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name, (random.standard_normal(shape) * 0.05).astype(numpy.float32))

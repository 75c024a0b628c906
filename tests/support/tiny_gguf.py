"""Small random GGUF files of the Llama family, with a tokenizer, written with gguf's own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

F32, F16 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16
Q8_0, Q4_0 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0

LAYERS, DIM, HEADS, KV_HEADS, HEAD_DIM, FFN = 2, 64, 6, 2, 16, 96
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]
_TYPES = {"attn_q": Q8_0, "attn_k": F16, "attn_v": Q4_0, "ffn_down": Q8_0, "ffn_gate": Q4_0}


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def vocabulary() -> list[str]:
    return [*SPECIALS, *byte_alphabet(), *("".join(m.split()) for m in MERGES)]


def tensors(tied: bool = True, seed: int = 0) -> dict[str, tuple[np.ndarray, Any]]:
    """Random weights by GGUF name, each with the type it is stored in."""
    rng = np.random.default_rng(seed)
    q, kv, vocab = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, len(vocabulary())
    shapes = {"token_embd": (vocab, DIM), "output_norm": (DIM,)}
    if not tied:
        shapes["output"] = (vocab, DIM)
    for i in range(LAYERS):
        block = {
            "attn_norm": (DIM,),
            "attn_q": (q, DIM),
            "attn_k": (kv, DIM),
            "attn_v": (kv, DIM),
            "attn_output": (DIM, q),
            "ffn_norm": (DIM,),
            "ffn_gate": (FFN, DIM),
            "ffn_up": (FFN, DIM),
            "ffn_down": (DIM, FFN),
        }
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    return {
        f"{name}.weight": (
            (rng.normal(size=s) * 0.3 + (len(s) == 1)).astype(np.float32),
            _TYPES.get(name.split(".")[-1], F32),
        )
        for name, s in shapes.items()
    }


def metadata() -> dict[str, Any]:
    """The metadata of the model and its tokenizer; a test changes or drops entries."""
    tokens = vocabulary()
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    return {
        "general.name": "tiny",
        "general.license": "apache-2.0",
        "llama.block_count": LAYERS,
        "llama.context_length": 128,
        "llama.embedding_length": DIM,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.key_length": HEAD_DIM,
        "llama.attention.value_length": HEAD_DIM,
        "llama.rope.dimension_count": HEAD_DIM,
        "llama.rope.freq_base": 5000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [control] * len(SPECIALS)
        + [normal] * (len(tokens) - len(SPECIALS)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": "{{ messages }}",
    }


def write_gguf(
    path: Path,
    *,
    arch: str = "llama",
    fields: dict[str, Any] | None = None,
    weights: dict[str, tuple[np.ndarray, Any]] | None = None,
) -> Path:
    """Write a GGUF file; `fields` replace metadata, and a field of None is left out."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**metadata(), **(fields or {})}.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, (array, kind) in (tensors() if weights is None else weights).items():
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

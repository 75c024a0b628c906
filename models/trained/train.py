"""Trains the small language model kept in this folder and writes its files. Run by hand.

Needs torch 2.9 or newer besides bitfold and its `models` extra; using the result needs no torch.

    python -m bitfold.models.trained.train

A byte-level BPE of 512 entries and a Llama of 1.4 million parameters (4 layers, width 192, 6
query and 2 key/value heads, tied head), trained on `corpus.split`'s first part for a fixed number
of steps: about 15 minutes on one CPU thread. Writes, in the layout of Hugging Face checkpoints,
``config.json``, ``model.safetensors`` (float16) and ``tokenizer.json``, and beside them the two
excerpts that tests read: ``eval.txt`` (held out) and ``calibration.txt`` (from the training part).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bitfold.models.trained.corpus import split, unique_text

END = "<|endoftext|>"
CALIBRATION_BYTES = 32 * 1024
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "vocab_size": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float16",
}


def train_tokenizer(text: str) -> Tokenizer:
    """Returns a byte-level BPE of `vocab_size` entries, the end-of-text mark first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def initial_weights(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Returns float32 weights under the names of Hugging Face's Llama; W is [out, in]."""
    width, hidden = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    q = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    layers = CONFIG["num_hidden_layers"]
    weights: dict[str, torch.Tensor] = {}

    def normal(name: str, rows: int, columns: int, std: float) -> None:
        weights[name] = torch.randn(rows, columns, generator=generator) * std

    normal("model.embed_tokens.weight", CONFIG["vocab_size"], width, 0.05)
    for i in range(layers):
        p = f"model.layers.{i}."
        into, out = width**-0.5, (2 * layers) ** -0.5
        weights[p + "input_layernorm.weight"] = torch.ones(width)
        normal(p + "self_attn.q_proj.weight", q, width, into)
        normal(p + "self_attn.k_proj.weight", kv, width, into)
        normal(p + "self_attn.v_proj.weight", kv, width, into)
        normal(p + "self_attn.o_proj.weight", width, q, into * out)
        weights[p + "post_attention_layernorm.weight"] = torch.ones(width)
        normal(p + "mlp.gate_proj.weight", hidden, width, into)
        normal(p + "mlp.up_proj.weight", hidden, width, into)
        normal(p + "mlp.down_proj.weight", width, hidden, hidden**-0.5 * out)
    weights["model.norm.weight"] = torch.ones(width)
    return weights


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates x[B, H, T, D] by position, first half against second half."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def forward(w: dict[str, torch.Tensor], ids: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Returns the logits [B, T, V] of token ids [B, T]; dropout acts on what enters the stream."""
    batch, length = ids.shape
    size, eps = CONFIG["head_dim"], CONFIG["rms_norm_eps"]
    frequency = CONFIG["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    angle = torch.arange(length)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(batch, length, -1, size).transpose(1, 2)

    x = F.dropout(w["model.embed_tokens.weight"][ids], dropout)
    for i in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = F.rms_norm(x, x.shape[-1:], w[p + "input_layernorm.weight"], eps)
        q = rotate(heads(h @ w[p + "self_attn.q_proj.weight"].T), cos, sin)
        k = rotate(heads(h @ w[p + "self_attn.k_proj.weight"].T), cos, sin)
        v = heads(h @ w[p + "self_attn.v_proj.weight"].T)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        a = a.transpose(1, 2).reshape(batch, length, -1) @ w[p + "self_attn.o_proj.weight"].T
        x = x + F.dropout(a, dropout)
        h = F.rms_norm(x, x.shape[-1:], w[p + "post_attention_layernorm.weight"], eps)
        gate = F.silu(h @ w[p + "mlp.gate_proj.weight"].T)
        h = (gate * (h @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
        x = x + F.dropout(h, dropout)
    x = F.rms_norm(x, x.shape[-1:], w["model.norm.weight"], eps)
    return x @ w["model.embed_tokens.weight"].T


@torch.no_grad()
def nats(w: dict[str, torch.Tensor], ids: torch.Tensor, window: int) -> tuple[float, int]:
    """Returns (sum of -log p in nats, tokens scored) over windows that do not overlap."""
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, window):
        chunk = ids[start : start + window + 1]
        logits = forward(w, chunk[None, :-1])[0]
        total += F.cross_entropy(logits, chunk[1:], reduction="sum").item()
        count += len(chunk) - 1
    return total, count


def train(options: argparse.Namespace, training: torch.Tensor, validation: torch.Tensor) -> dict:
    """Returns the weights after `options.steps` steps of Muon and AdamW on a cosine schedule."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    w = initial_weights(generator)
    for tensor in w.values():
        tensor.requires_grad_()
    matrices = [t for n, t in w.items() if t.ndim == 2 and ".layers." in n]
    others = [t for n, t in w.items() if t.ndim == 1 or ".layers." not in n]
    optimizers = [
        # Twice as far per token seen as AdamW, and there is little text to see.
        torch.optim.Muon(matrices, weight_decay=options.decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    begin = time.perf_counter()
    for step in range(options.steps):
        warm = min(1.0, (step + 1) / 40)
        rate = (
            options.rate * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * step / options.steps)) / 2)
        )
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
        starts = torch.randint(
            len(training) - options.context, (options.batch,), generator=generator
        )
        rows = torch.stack([training[s : s + options.context + 1] for s in starts])
        logits = forward(w, rows[:, :-1], options.dropout)
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(w.values()), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 50 == 0:
            total, count = nats(w, validation, options.context)
            print(
                f"step {step + 1}: loss {loss.item():.3f}, validation {total / count:.3f} "
                f"nats a token, {time.perf_counter() - begin:.0f} s",
                flush=True,
            )
    return {name: tensor.detach() for name, tensor in w.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--decay", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    text = unique_text()
    parts = split(text)
    tokenizer = train_tokenizer(parts[0])
    ids = [torch.tensor(tokenizer.encode(part).ids) for part in parts]
    print("bytes:", [len(p.encode()) for p in parts], "tokens:", [len(i) for i in ids])
    weights = train(options, ids[0], ids[1])
    for name, tensor in weights.items():  # what is kept is what is scored
        weights[name] = tensor.half().float()

    total, count = nats(weights, ids[2], options.context)
    size = len(parts[2].encode())
    result = {"perplexity": math.exp(total / count), "bits_per_byte": total / math.log(2) / size}
    print("held out:", result)
    origin = {
        "text": f"pydoc_data.topics of Python {platform.python_version()}",
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "torch": torch.__version__,
        "options": {k: v for k, v in vars(options).items() if k not in ("out", "threads")},
        "held_out": {k: round(v, 4) for k, v in result.items()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.half().contiguous() for name, tensor in weights.items()},
        options.out / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.dumps(CONFIG | {"trained_by": origin}, indent=2) + "\n"
    (options.out / "config.json").write_text(config, encoding="utf-8")
    tokenizer.save(str(options.out / "tokenizer.json"))
    (options.out / "eval.txt").write_bytes(parts[2].encode())
    calibration = parts[0].encode()[:CALIBRATION_BYTES].decode(errors="ignore")
    (options.out / "calibration.txt").write_bytes(calibration.encode())


if __name__ == "__main__":
    main()

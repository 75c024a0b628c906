from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import onnxruntime as ort
import pytest
from oracles.llama_numpy import gguf_logits
from support import tiny_gguf
from tokenizers import Tokenizer

from bitfold.frontend.emit import write_model
from bitfold.frontend.importers import import_model
from bitfold.frontend.importers.gguf import import_gguf, to_half_rotation
from bitfold.frontend.importers.tokenizer import export_tokenizer
from bitfold.frontend.perplexity import causal_feed, logits
from bitfold.runtime.errors import ModelError, UnsupportedError


def _session(source: Path, folder: Path) -> ort.InferenceSession:
    folder.mkdir(exist_ok=True)
    write_model(import_gguf(source), folder / "model.onnx", force=True)
    return ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("count", [1, 7, 33])
def test_logits_equal_the_oracle(tmp_path: Path, tied: bool, count: int) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf", weights=tiny_gguf.tensors(tied))
    ids = np.random.default_rng(count).integers(0, len(tiny_gguf.vocabulary()), count)
    expected = gguf_logits(path, ids)
    found = logits(_session(path, tmp_path / "out"), ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_rope_factors_equal_the_oracle(tmp_path: Path) -> None:
    weights = tiny_gguf.tensors()
    factors = np.linspace(1, 8, tiny_gguf.HEAD_DIM // 2, dtype=np.float32)
    weights["rope_freqs.weight"] = (factors, tiny_gguf.F32)
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf", weights=weights)
    ids = np.arange(20) * 5
    expected = gguf_logits(path, ids)
    found = logits(_session(path, tmp_path / "out"), ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    plain = gguf_logits(tiny_gguf.write_gguf(tmp_path / "plain.gguf"), ids)
    assert np.abs(plain - expected).max() > 1e-2


def test_linear_rope_scaling_is_a_factor_on_every_frequency(tmp_path: Path) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    scaled = tiny_gguf.write_gguf(tmp_path / "scaled.gguf", fields=scaling)
    weights = tiny_gguf.tensors()
    four = np.full(tiny_gguf.HEAD_DIM // 2, 4, np.float32)
    weights["rope_freqs.weight"] = (four, tiny_gguf.F32)
    same = tiny_gguf.write_gguf(tmp_path / "same.gguf", weights=weights)
    ids = np.arange(20) * 5
    expected = gguf_logits(same, ids)
    found = logits(_session(scaled, tmp_path / "out"), ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_decoding_step_by_step_equals_the_oracle(tmp_path: Path) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf")
    ids = np.random.default_rng(3).integers(0, 250, 9)
    expected = gguf_logits(path, ids)
    session = _session(path, tmp_path / "out")
    names = [o.name for o in session.get_outputs()]
    feed = causal_feed(session, ids[:4])
    for step in range(4, 10):
        outputs = dict(zip(names, session.run(None, feed), strict=True))
        np.testing.assert_allclose(
            outputs["logits"][0, -1], expected[step - 1], atol=2e-5 * np.abs(expected).max()
        )
        feed = {k.replace("present", "past_key_values"): v for k, v in outputs.items()}
        del feed["logits"]
        feed["input_ids"] = ids[None, step : step + 1]
        feed["position_ids"] = np.array([[step]])
        feed["attention_mask"] = np.ones((1, step + 1), np.int64)


def test_half_rotation_takes_even_rows_first() -> None:
    rows = np.arange(12)[:, None] * np.ones((1, 3))
    expected = [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert to_half_rotation(rows, heads=2)[:, 0].tolist() == expected


def test_import_decodes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf")
    decoded: list[int] = []
    real = gguf.dequantize

    def counted(data: np.ndarray, kind: object) -> np.ndarray:
        decoded.append(1)
        return real(data, kind)

    monkeypatch.setattr(gguf, "dequantize", counted)
    model = import_gguf(path)
    assert not decoded
    model.graph.initializers["model.layers.0.mlp.up_proj.weight"].const_value.numpy()
    assert len(decoded) == 1


def test_same_file_gives_same_bytes(tmp_path: Path) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf")
    for name in ("a", "b"):
        _session(path, tmp_path / name)
    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_metadata_names_the_source_but_no_path(tmp_path: Path) -> None:
    props = import_gguf(tiny_gguf.write_gguf(tmp_path / "m.gguf")).metadata_props
    assert props["source_format"] == "gguf"
    assert props["license"] == "apache-2.0"
    assert not any(str(tmp_path) in value for value in props.values())


def test_a_gguf_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.bin")
    assert "logits" in [v.name for v in import_model(path).graph.outputs]


def test_every_cut_of_a_file_is_a_model_error(tmp_path: Path) -> None:
    whole = tiny_gguf.write_gguf(tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(4, 40, 3), *range(40, len(whole) - 32, len(whole) // 40)]:
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            import_gguf(cut)


@pytest.mark.parametrize("content", [b"", b"GG", b"not a model at all"])
def test_another_file_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="expected a GGUF file"):
        import_gguf(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        import_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "token_embd.weight"])
def test_missing_tensor(tmp_path: Path, name: str) -> None:
    weights = tiny_gguf.tensors()
    del weights[name]
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf", weights=weights)
    with pytest.raises(ModelError, match=f"tensor {name} is missing"):
        import_gguf(path)


def test_wrong_shape_names_the_weight(tmp_path: Path) -> None:
    weights = tiny_gguf.tensors()
    weights["blk.0.ffn_up.weight"] = (np.zeros((32, tiny_gguf.DIM), np.float32), tiny_gguf.F32)
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf", weights=weights)
    with pytest.raises(ModelError, match=r"up_proj.*expected shape \[96, 64\], found \[32, 64\]"):
        import_gguf(path)


def test_tensor_without_a_place(tmp_path: Path) -> None:
    weights = tiny_gguf.tensors()
    weights["blk.0.attn_q.bias"] = (np.zeros(96, np.float32), tiny_gguf.F32)
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf", weights=weights)
    with pytest.raises(UnsupportedError, match=r"blk\.0\.attn_q\.bias"):
        import_gguf(path)


def test_unknown_architecture(tmp_path: Path) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf", arch="mamba")
    with pytest.raises(UnsupportedError, match="'mamba'") as caught:
        import_gguf(path)
    assert "llama" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.expert_count", 8),
        ("llama.rope.dimension_count", 8),
        ("llama.rope.scaling.type", "yarn"),
    ],
)
def test_variants_that_change_the_forward_pass_are_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf", fields={key: value})
    with pytest.raises(UnsupportedError, match=key):
        import_gguf(path)


def test_missing_metadata(tmp_path: Path) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf", fields={"llama.block_count": None})
    with pytest.raises(ModelError, match=r"llama\.block_count is missing"):
        import_gguf(path)


def test_without_the_gguf_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UnsupportedError) as caught:
        import_gguf(path)
    assert caught.value.hint == "pip install 'bitfold[models]'"


class TestTokenizer:
    def _load(self, path: Path, folder: Path) -> Tokenizer:
        export_tokenizer(path, folder)
        return Tokenizer.from_file(str(folder / "tokenizer.json"))

    def test_known_tokens(self, tmp_path: Path) -> None:
        tokenizer = self._load(tiny_gguf.write_gguf(tmp_path / "m.gguf"), tmp_path)
        # "12" is a token and a merge, but digits are cut one by one before merges.
        text = "<|im_start|>hello world12"
        expected = ["<|im_start|>", "hello", "Ġw", "o", "r", "l", "d", "1", "2"]
        assert tokenizer.encode(text).tokens == expected

    def test_gpt2_keeps_digits_together(self, tmp_path: Path) -> None:
        fields = {"tokenizer.ggml.pre": "gpt-2"}
        tokenizer = self._load(tiny_gguf.write_gguf(tmp_path / "m.gguf", fields=fields), tmp_path)
        assert tokenizer.encode("12").tokens == ["12"]

    @pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe", "qwen2"])
    @pytest.mark.parametrize("text", ["hello, wörld!\n\n  x = 3.14\t", "日本語 🙂 it's", " ", ""])
    def test_round_trip(self, tmp_path: Path, pre: str, text: str) -> None:
        fields = {"tokenizer.ggml.pre": pre}
        tokenizer = self._load(tiny_gguf.write_gguf(tmp_path / "m.gguf", fields=fields), tmp_path)
        assert tokenizer.decode(tokenizer.encode(text).ids) == text

    def test_bos_goes_first_where_the_file_asks_for_it(self, tmp_path: Path) -> None:
        fields = {"tokenizer.ggml.add_bos_token": True}
        tokenizer = self._load(tiny_gguf.write_gguf(tmp_path / "m.gguf", fields=fields), tmp_path)
        assert tokenizer.encode("he").tokens == ["<|im_start|>", "he"]
        assert tokenizer.encode("he", add_special_tokens=False).tokens == ["he"]

    def test_companions(self, tmp_path: Path) -> None:
        export_tokenizer(tiny_gguf.write_gguf(tmp_path / "m.gguf"), tmp_path)
        generation = json.loads((tmp_path / "generation_config.json").read_text("utf-8"))
        assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
        assert config["eos_token"] == "<|im_end|>"
        assert config["chat_template"] == "{{ messages }}"
        assert config["model_max_length"] == 128
        assert config["add_bos_token"] is False

    @pytest.mark.parametrize(
        ("fields", "error", "message"),
        [
            ({"tokenizer.ggml.pre": "martian"}, UnsupportedError, "'martian'"),
            ({"tokenizer.ggml.pre": None}, ModelError, "pre is missing"),
            ({"tokenizer.ggml.model": "llama"}, UnsupportedError, "tokenizer model 'llama'"),
            ({"tokenizer.ggml.merges": ["h e", "he xx"]}, ModelError, "'he xx'"),
            ({"tokenizer.ggml.token_type": [1, 1]}, ModelError, "token types"),
            ({"tokenizer.ggml.eos_token_id": 99999}, ModelError, "eos token 99999"),
            ({"tokenizer.ggml.tokens": ["a", "b", "a"]}, ModelError, "'a' occurs"),
        ],
    )
    def test_broken_tokenizers(
        self, tmp_path: Path, fields: dict[str, object], error: type[Exception], message: str
    ) -> None:
        path = tiny_gguf.write_gguf(tmp_path / "m.gguf", fields=fields)
        with pytest.raises(error, match=message):
            export_tokenizer(path, tmp_path)
        assert not (tmp_path / "tokenizer.json").exists()

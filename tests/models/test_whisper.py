"""Whisper's parts against NumPy, decoding in steps, and weights out of CTranslate2's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from oracles.transformer_numpy import whisper_decoder_numpy, whisper_encoder_numpy
from support.small_encoders import WHISPER, draw_weights, write_ctranslate2

from bitfold.frontend.tasks.whisper import first_feeds, next_feeds
from bitfold.models import whisper_tiny
from bitfold.models.ctranslate2_file import CTranslate2File
from bitfold.models.whisper_decoder import build_decoder
from bitfold.models.whisper_encoder import build_encoder
from bitfold.runtime.errors import ModelError
from bitfold.runtime.session import Session

ENCODER = draw_weights(WHISPER.encoder_shapes(), 1)
DECODER = draw_weights(WHISPER.decoder_shapes(), 2)
IDS = [7, 3, 59, 0, 12]


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.standard_normal((1, WHISPER.frames, WHISPER.dim)).astype(np.float32)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tmp_path_factory.mktemp("whisper") / "decoder.onnx"
    ir.save(build_decoder(WHISPER, DECODER), path)
    return Session(path, threads=1)


def test_encoder_equals_the_oracle(tmp_path: Path) -> None:
    mel = np.random.default_rng(0).standard_normal((WHISPER.mels, 2 * WHISPER.frames))
    ir.save(build_encoder(WHISPER, ENCODER), tmp_path / "encoder.onnx")
    feeds = {"input_features": mel[None].astype(np.float32)}
    found = Session(tmp_path / "encoder.onnx", threads=1).run(feeds)["last_hidden_state"]
    expected = whisper_encoder_numpy(ENCODER, WHISPER.heads, WHISPER.layers, mel)
    np.testing.assert_allclose(found[0], expected, atol=5e-5)


def test_decoder_equals_the_oracle(decoder: Session, states: np.ndarray) -> None:
    found = decoder.run(first_feeds(decoder, IDS, states))["logits"][0]
    expected = whisper_decoder_numpy(
        DECODER, WHISPER.heads, WHISPER.layers, np.array(IDS), states[0].astype(np.float64)
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_steps_equal_all_at_once(decoder: Session, states: np.ndarray) -> None:
    whole = decoder.run(first_feeds(decoder, IDS, states))
    outputs = decoder.run(first_feeds(decoder, IDS[:2], states))
    logits = [outputs["logits"]]
    for tokens in (IDS[2:3], IDS[3:]):
        outputs = decoder.run(next_feeds(tokens, states, outputs))
        logits.append(outputs["logits"])
    np.testing.assert_allclose(np.concatenate(logits, 1), whole["logits"], atol=2e-5)
    for name in set(whole) - {"logits"}:
        np.testing.assert_allclose(outputs[name], whole[name], atol=2e-5, err_msg=name)
    assert outputs["present.0.encoder.key"].shape[2] == WHISPER.frames


def fused(side: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights as CTranslate2 stores them: QKV in one, K and V of cross-attention in one."""
    dim, f16 = WHISPER.dim, np.float16
    name, out = f"model.{side}", {}
    outer = {"conv1": "conv1", "conv2": "conv2"} if side == "encoder" else {}
    for ours, theirs in outer.items():
        for part in ("weight", "bias"):
            out[f"{side}/{theirs}/{part}"] = weights[f"{name}.{ours}.{part}"]
    out[f"{side}/position_encodings/encodings"] = weights[f"{name}.embed_positions.weight"]
    if side == "decoder":
        out["decoder/embeddings/weight"] = weights[f"{name}.embed_tokens.weight"]

    def norm(ours: str, theirs: str) -> None:
        out[f"{theirs}/gamma"] = weights[f"{ours}.weight"]
        out[f"{theirs}/beta"] = weights[f"{ours}.bias"]

    def join(theirs: str, *ours: str) -> None:
        out[f"{theirs}/weight"] = np.concatenate([weights[f"{o}.weight"] for o in ours])
        zeros = np.zeros(dim, np.float32)
        out[f"{theirs}/bias"] = np.concatenate([weights.get(f"{o}.bias", zeros) for o in ours])

    norm(f"{name}.layer_norm", f"{side}/layer_norm")
    for i in range(WHISPER.layers):
        a, b = f"{name}.layers.{i}", f"{side}/layer_{i}"
        own = f"{a}.self_attn"
        join(f"{b}/self_attention/linear_0", *(f"{own}.{kind}_proj" for kind in "qkv"))
        join(f"{b}/self_attention/linear_1", f"{own}.out_proj")
        norm(f"{own}_layer_norm", f"{b}/self_attention/layer_norm")
        if side == "decoder":
            other = f"{a}.encoder_attn"
            join(f"{b}/attention/linear_0", f"{other}.q_proj")
            join(f"{b}/attention/linear_1", f"{other}.k_proj", f"{other}.v_proj")
            join(f"{b}/attention/linear_2", f"{other}.out_proj")
            norm(f"{other}_layer_norm", f"{b}/attention/layer_norm")
        join(f"{b}/ffn/linear_0", f"{a}.fc1")
        join(f"{b}/ffn/linear_1", f"{a}.fc2")
        norm(f"{a}.final_layer_norm", f"{b}/ffn/layer_norm")
    return {key: array.astype(f16) for key, array in out.items()}


@pytest.fixture
def variables() -> dict[str, np.ndarray]:
    return fused("encoder", ENCODER) | fused("decoder", DECODER)


def test_every_weight_is_found_in_the_file(
    tmp_path: Path, variables: dict[str, np.ndarray]
) -> None:
    file = CTranslate2File(write_ctranslate2(tmp_path / "model.bin", variables))
    for name, expected in (ENCODER | DECODER).items():
        found = whisper_tiny.read_weight(file, name)
        np.testing.assert_array_equal(found.numpy(), expected, err_msg=name)
    with pytest.raises(KeyError):
        whisper_tiny.read_weight(file, "model.decoder.layers.0.self_attn.q_proj.scale")


def test_both_parts_are_built_from_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, np.ndarray],
    decoder: Session,
    states: np.ndarray,
) -> None:
    monkeypatch.setattr(whisper_tiny, "CONFIG", WHISPER)
    path = write_ctranslate2(tmp_path / "model.bin", variables)
    ir.save(whisper_tiny.build_tiny_decoder(path), tmp_path / "decoder.onnx")
    whisper_tiny.build_tiny_encoder(path)
    feeds = first_feeds(decoder, IDS, states)
    found = Session(tmp_path / "decoder.onnx", threads=1).run(feeds)["logits"]
    np.testing.assert_array_equal(found, decoder.run(feeds)["logits"])


def test_a_bias_of_keys_is_refused(tmp_path: Path, variables: dict[str, np.ndarray]) -> None:
    bias = variables["decoder/layer_1/attention/linear_1/bias"]
    bias[0] = 1  # the first half is the keys'
    path = write_ctranslate2(tmp_path / "model.bin", variables)
    with pytest.raises(ModelError, match="layer_1/attention/linear_1"):
        whisper_tiny.build_tiny_decoder(path)


def test_another_model_is_refused(tmp_path: Path, variables: dict[str, np.ndarray]) -> None:
    path = write_ctranslate2(tmp_path / "model.bin", variables, spec="TransformerSpec")
    with pytest.raises(ModelError, match="expected a Whisper model, found a TransformerSpec"):
        whisper_tiny.build_tiny_encoder(path)

"""Decoders: stepping with a cache gives what the whole text gives at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.language_models import write_attention_model, write_llama

from bitfold.runtime.decoder import CacheMode, is_language_model
from bitfold.runtime.errors import CalibrationError, UnsupportedError
from bitfold.runtime.session import Session

IDS = np.random.default_rng(7).integers(0, 40, 30)


def steps(session: Session, share: bool) -> np.ndarray:
    """The logits of IDS, taken as 7, 2 and then single tokens; the shared cache must grow."""
    decoder = session.decoder(capacity=4, share=share)
    parts = [decoder.step(IDS[:7]).copy(), decoder.step(IDS[7:9]).copy()]
    parts += [decoder.step([token]).copy() for token in IDS[9:]]
    assert decoder.length == len(IDS)
    return np.concatenate(parts, axis=1)


def without_cache(path: Path) -> Path:
    """The same Llama with its past fixed as empty and its presents dropped."""
    model = onnx.load(path)
    graph = model.graph
    for value in [v for v in graph.input if v.name.startswith("past_key_values")]:
        graph.input.remove(value)
        tensor = onnx.helper.make_tensor(value.name, onnx.TensorProto.FLOAT, [1, 2, 0, 8], [])
        graph.initializer.append(tensor)
    for value in [v for v in graph.output if v.name.startswith("present")]:
        graph.output.remove(value)
    out = path.with_name("no-cache.onnx")
    onnx.save(model, out)
    return out


def test_passed_cache_equals_the_whole_text(tmp_path: Path) -> None:
    session = Session(write_llama(tmp_path / "llama.onnx"), threads=1)
    decoder = session.decoder()
    assert decoder.mode is CacheMode.PASSED
    whole = decoder.step(IDS).copy()
    np.testing.assert_allclose(steps(session, share=True), whole, rtol=1e-4, atol=1e-4)


def test_shared_cache_equals_the_passed_one(tmp_path: Path) -> None:
    session = Session(write_attention_model(tmp_path / "a.onnx", shared=True), threads=1)
    assert session.decoder().mode is CacheMode.SHARED
    assert session.decoder(share=False).mode is CacheMode.PASSED
    whole = session.decoder(share=False).step(IDS).copy()
    scale = np.abs(whole).max()
    np.testing.assert_allclose(steps(session, share=False) / scale, whole / scale, atol=1e-5)
    np.testing.assert_array_equal(steps(session, share=True), steps(session, share=False))


def test_sharing_needs_the_models_word(tmp_path: Path) -> None:
    session = Session(write_attention_model(tmp_path / "a.onnx", shared=False), threads=1)
    assert session.decoder().mode is CacheMode.PASSED


def test_a_model_without_cache_runs_over_everything_again(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "llama.onnx")
    whole = Session(path, threads=1).decoder().step(IDS).copy()
    session = Session(without_cache(path), threads=1)
    assert session.decoder().mode is CacheMode.NONE
    np.testing.assert_allclose(steps(session, share=True), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_reset_forgets(tmp_path: Path, shared: bool) -> None:
    session = Session(write_attention_model(tmp_path / "a.onnx", shared=shared), threads=1)
    decoder = session.decoder()
    first = decoder.step(IDS[:9]).copy()
    decoder.step(IDS[9:20])
    decoder.reset()
    assert decoder.length == 0
    np.testing.assert_array_equal(decoder.step(IDS[:9]), first)


def test_batch_rows_are_independent(tmp_path: Path) -> None:
    session = Session(write_llama(tmp_path / "llama.onnx"), threads=1)
    both = session.decoder(batch=2)
    rows = np.stack([IDS[:10], IDS[10:20]])
    both.step(rows[:, :6])
    found = both.step(rows[:, 6:])
    for row in (0, 1):
        alone = session.decoder()
        alone.step(rows[row, :6])
        np.testing.assert_allclose(found[row], alone.step(rows[row, 6:])[0], rtol=1e-4, atol=1e-4)


def test_a_failed_step_can_be_followed_by_a_good_one(tmp_path: Path) -> None:
    session = Session(write_llama(tmp_path / "llama.onnx"), threads=1)
    decoder = session.decoder()
    expected = decoder.step(IDS[:5]).copy()
    decoder.reset()
    with pytest.raises(Exception, match="out of"):
        decoder.step([10**6])
    assert decoder.length == 0
    np.testing.assert_array_equal(decoder.step(IDS[:5]), expected)


def test_tokens_that_do_not_fit(tmp_path: Path) -> None:
    decoder = Session(write_llama(tmp_path / "llama.onnx"), threads=1).decoder()
    for tokens in ([], np.zeros((2, 3), np.int64)):
        with pytest.raises(CalibrationError):
            decoder.step(tokens)


def test_other_models_are_refused(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "llama.onnx")
    assert is_language_model(Session(path))
    model = onnx.load(path)
    extra = onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, [1])
    model.graph.input.append(extra)
    onnx.save(model, path)
    session = Session(path)
    assert not is_language_model(session)
    with pytest.raises(UnsupportedError, match="pixel_values"):
        session.decoder()

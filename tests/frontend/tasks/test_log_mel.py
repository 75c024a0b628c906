"""The spectrogram by known answers: silence, tones, the scale's landmarks."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import pytest

from bitfold.frontend.tasks.log_mel import BANDS, RATE, log_mel, mel_filters, read_wav
from bitfold.runtime.errors import CalibrationError


def _tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE).astype(np.float32)


def _centres() -> np.ndarray:
    """Slaney's scale by its definition: 15 mels to 1 kHz, then 27 of equal ratio to 6.4 kHz."""
    edges = [200 / 3 * m if m < 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in np.arange(60)]
    top = 15 + 27 * math.log(8) / math.log(6.4)
    return np.interp(np.linspace(0, top, BANDS + 2), np.arange(60), edges)[1:-1]


def test_silence() -> None:
    mel = log_mel(np.zeros(1000, np.float32))
    assert mel.shape == (80, 3000)
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, (math.log10(1e-10) + 4) / 4)


@pytest.mark.parametrize("hertz", [220.0, 1000.0, 3000.0, 6000.0])
def test_a_tone_is_loudest_in_its_band(hertz: float) -> None:
    mel = log_mel(_tone(hertz))
    loudest = int(mel[:, 50].argmax())
    nearest = np.argsort(np.abs(_centres() - hertz))[:2]
    assert loudest in nearest
    # The tone ends after one second, the rest is silence: 80 dB below the loudest.
    np.testing.assert_allclose(mel[:, 200:], mel.max() - 2, atol=1e-6)


def test_twice_as_loud_is_four_times_the_power() -> None:
    soft, loud = (log_mel(scale * _tone(440)) for scale in (0.25, 0.5))
    assert (loud - soft)[:, 50].max() == pytest.approx(math.log10(4) / 4, abs=1e-5)


def test_one_frame_equals_a_plain_sum() -> None:
    sound = np.random.default_rng(0).standard_normal(RATE * 30).astype(np.float32)
    frame, start = 100, 100 * 160 - 200
    angle = 2 * np.pi * np.outer(np.arange(201), np.arange(400)) / 400
    window = np.sin(np.pi * np.arange(400) / 400) ** 2
    part = sound[start : start + 400] * window
    power = (np.cos(angle) @ part) ** 2 + (np.sin(angle) @ part) ** 2
    expected = (np.log10(mel_filters() @ power) + 4) / 4
    np.testing.assert_allclose(log_mel(sound)[:, frame], expected, atol=1e-5)


def test_triangles_have_unit_area_and_their_centres() -> None:
    filters = mel_filters()
    assert filters.shape == (80, 201)
    wide = filters[50:]  # enough points on each to sum the area well
    np.testing.assert_allclose(wide.sum(1) * RATE / 400, 1, atol=0.02)
    hertz = np.arange(201) * 40
    np.testing.assert_allclose(hertz[wide.argmax(1)], _centres()[50:], atol=41)


def test_longer_sound_is_cut() -> None:
    sound = np.random.default_rng(0).standard_normal(RATE * 31).astype(np.float32)
    np.testing.assert_array_equal(log_mel(sound), log_mel(sound[: RATE * 30]))


def _write(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def test_wav_samples(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wav", np.array([0, 16384, -32768]))
    np.testing.assert_array_equal(read_wav(path), np.array([0, 0.5, -1], np.float32))


def test_wavs_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="at 8000 Hz"):
        read_wav(_write(tmp_path / "a.wav", np.zeros(4), rate=8000))
    with pytest.raises(CalibrationError, match="found 2 of 2 bytes"):
        read_wav(_write(tmp_path / "b.wav", np.zeros(4), channels=2))
    (tmp_path / "c.wav").write_bytes(b"RIFF")
    for name in ("c.wav", "absent.wav"):
        with pytest.raises(CalibrationError, match="no WAV file"):
            read_wav(tmp_path / name)

"""Sound as Whisper sees it: a log-mel spectrogram of 30 seconds, in NumPy.

Radford et al., 2022, arXiv 2212.04356, section 2.2: 80 mel bands, windows of 25 ms, 10 ms apart.
The mel scale is that of Slaney's Auditory Toolbox (1998): linear up to 1 kHz, logarithmic above,
each triangle of unit area.
"""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np

from bitfold.runtime.errors import CalibrationError

RATE = 16_000
"""Samples a second."""
SECONDS = 30
WINDOW = 400
"""Samples of one window."""
HOP = 160
"""Samples from one window to the next."""
BANDS = 80

_LINEAR = 200 / 3  # Hz a mel below the break
_BREAK = 1000.0  # Hz
_LOG = math.log(6.4) / 27  # log Hz a mel above the break


def log_mel(samples: np.ndarray) -> np.ndarray:
    """The spectrogram of a sound, cut or filled with silence to 30 s: f32[80, 3000].

    Args:
        samples: f32[n] in -1…1, at 16 kHz.
    """
    sound = np.zeros(RATE * SECONDS, np.float64)
    count = min(len(samples), len(sound))
    sound[:count] = samples[:count]
    padded = np.pad(sound, WINDOW // 2, mode="reflect")
    # The last window would be centred after the end: it is left out.
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:-1]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann, axis=-1)) ** 2  # [3000, 201]
    mel = np.log10(np.maximum(mel_filters() @ power.T, 1e-10))
    mel = np.maximum(mel, mel.max() - 8.0)  # 80 dB below the loudest are silence
    return ((mel + 4.0) / 4.0).astype(np.float32)


def mel_filters() -> np.ndarray:
    """The triangles over the power spectrum: f64[80, 201]."""
    frequencies = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    edges = _hertz(np.linspace(0.0, _mel(RATE / 2), BANDS + 2))
    width = np.diff(edges)
    offset = edges[:, None] - frequencies[None, :]
    rising, falling = -offset[:-2] / width[:-1, None], offset[2:] / width[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: np.ndarray = triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters


def read_wav(path: Path) -> np.ndarray:
    """The samples of a 16-bit mono WAV file at 16 kHz, f32[n] in -1…1.

    Raises:
        CalibrationError: the file cannot be read, or is of another kind.
    """
    try:
        with wave.open(str(path), "rb") as file:
            found = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            raw = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise CalibrationError(f"{path}: no WAV file ({error})") from error
    if found != (1, 2, RATE):
        raise CalibrationError(
            f"{path}: expected 1 channel of 2 bytes at {RATE} Hz, found {found[0]} of {found[1]} "
            f"bytes at {found[2]} Hz"
        )
    return np.frombuffer(raw, "<i2").astype(np.float32) / 32768.0


def _mel(hertz: float) -> float:
    if hertz < _BREAK:
        return hertz / _LINEAR
    return _BREAK / _LINEAR + math.log(hertz / _BREAK) / _LOG


def _hertz(mel: np.ndarray) -> np.ndarray:
    start = _BREAK / _LINEAR
    return np.where(mel < start, mel * _LINEAR, _BREAK * np.exp(_LOG * (mel - start)))

"""One model in a process of its own, timed on command: what `bench` starts for each model.

Reads a command a line from stdin, ``{"do": name, …}``, and writes ``{"ok": result}`` or
``{"error": [class, message, hint]}`` a line to stdout.  A process a model keeps load time and
peak memory clean of the other model's.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitfold.runtime.decoder import Decoder, cache_pairs, is_language_model
from bitfold.runtime.errors import BitfoldError, VerificationError
from bitfold.runtime.session import Session

LEAST_CORRELATION = 0.7
"""Between the logits with and without a cache: rounding leaves more than this, a fault less."""


class Worker:
    """Loads a model and times it.

    Args:
        path: the ONNX file.
        threads: threads inside an operator.
        library: use bitfold's op library.
    """

    def __init__(self, path: str, threads: int, library: bool) -> None:
        self._open: Callable[[], Session] = lambda: Session(path, threads=threads, library=library)
        self._idle_bytes = resident_bytes()
        self._session: Session | None = None
        self._decoder: Decoder | None = None

    @property
    def session(self) -> Session:
        """The session, loaded when first needed."""
        if self._session is None:
            self._session = self._open()
        return self._session

    @property
    def decoder(self) -> Decoder:
        """The decoder, made when first needed."""
        if self._decoder is None:
            self._decoder = self.session.decoder()
        return self._decoder

    def load(self) -> float:
        """Load the model; seconds.  The first one stays, later ones are dropped."""
        start = time.perf_counter()
        session = self._open()
        seconds = time.perf_counter() - start
        if self._session is None:
            self._session = session
        return seconds

    def facts(self) -> dict[str, Any]:
        """What a report says about the loaded model."""
        cached = is_language_model(self.session) and bool(cache_pairs(self.session))
        mode = self.decoder.mode.value if cached else None
        return {"library": self.session.has_library, "cache": mode}

    def memory(self) -> list[int]:
        """Resident bytes of the process before loading, and at its peak."""
        return [self._idle_bytes, peak_bytes()]

    def prefill(self, tokens: list[int], seconds: float) -> list[float]:
        """Seconds of each step over all tokens from an empty cache, for ``seconds`` in all."""
        taken: list[float] = []
        while not taken or sum(taken) < seconds:
            self.decoder.reset()
            start = time.perf_counter()
            logits = self.decoder.step(tokens)
            taken.append(time.perf_counter() - start)
        _expect_finite(logits, self.session)
        return taken

    def decode(self, tokens: list[int], context: int) -> list[float]:
        """Seconds of each one-token step after ``context`` tokens taken at once."""
        self.decoder.reset()
        if context:
            self.decoder.step(tokens[:context])
        seconds = []
        for token in tokens[context:]:
            start = time.perf_counter()
            logits = self.decoder.step([token])
            seconds.append(time.perf_counter() - start)
        _expect_finite(logits, self.session)
        return seconds

    def forward(self, feeds: str, seconds: float) -> list[float]:
        """Seconds of each run on the feeds in an npz file, for about ``seconds`` in all."""
        with np.load(feeds) as file:
            arrays = {name: file[name] for name in file.files}
        taken: list[float] = []
        while not taken or sum(taken) < seconds:
            start = time.perf_counter()
            outputs = self.session.run(arrays)
            taken.append(time.perf_counter() - start)
        for array in outputs.values():
            _expect_finite(array, self.session)
        return taken

    def outputs(self, feeds: str, file: str) -> None:
        """Run once on the feeds and write all outputs to an npz file."""
        with np.load(feeds) as arrays:
            outputs = self.session.run({name: arrays[name] for name in arrays.files})
            np.savez(file, **outputs)  # type: ignore[arg-type]

    def logits(self, tokens: list[int], file: str) -> float:
        """Write the tokens' logits [S, vocab] to an npz file.

        Returns how far the same tokens taken one at a time end up from that, relative to the
        largest logit: the cache at work.  Rounding alone moves a low-bit model's logits by some
        percent, because it flips codes.

        Raises:
            VerificationError: they have nothing to do with each other.
        """
        self.decoder.reset()
        whole = self.decoder.step(tokens)[0].copy()
        self.decoder.reset()
        for token in tokens:
            last = self.decoder.step([token])[0, -1]
        if np.corrcoef(whole[-1], last)[0, 1] < LEAST_CORRELATION:
            raise VerificationError(
                f"{self.session.path.name}: token by token the logits of the last of {len(tokens)} "
                "tokens are not those of the whole text: the key/value cache is broken"
            )
        np.savez(file, logits=whole)
        return float(np.abs(last - whole[-1]).max() / max(float(np.abs(whole[-1]).max()), 1e-30))


COMMANDS = ("load", "facts", "memory", "prefill", "decode", "forward", "outputs", "logits")


def _expect_finite(array: np.ndarray, session: Session) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise VerificationError(f"{session.path.name}: expected finite outputs, found NaN or inf")


def resident_bytes() -> int:
    """Bytes of this process that are in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return peak_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Bytes of this process that were in memory at its peak; mapped weights count when read."""
    # Not ru_maxrss where there is a choice: on Linux it starts at what the parent process had.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Serve commands until stdin ends; the first line holds the worker's arguments."""
    # Whatever libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker: Worker | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            name = command.pop("do")
            if name == "start":
                worker, result = Worker(**command), None
            elif name in COMMANDS:
                result = getattr(worker, name)(**command)
            else:
                raise ValueError(f"unknown command {name!r}")
            answer: dict[str, Any] = {"ok": result}
        except BitfoldError as error:
            answer = {"error": [type(error).__name__, str(error), error.hint]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
